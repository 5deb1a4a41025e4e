"""How many answers of judges, annotator and others were read, for the report."""

from collections.abc import Mapping
from dataclasses import dataclass

from sage_core.answers.outcomes import OUTCOMES, READ
from sage_core.answers.tally import Tally
from sage_core.evaluation.metrics import Rate


@dataclass(frozen=True)
class Answered:
    """The answers of one role.

    Attributes:
        read: of all that were asked for.
        unread: outcome -> answers, of those in :attr:`AnswerTable.outcomes`.
    """

    role: str
    read: Rate
    unread: Mapping[str, int]


@dataclass(frozen=True)
class AnswerTable:
    """The answers of all roles. ``outcomes``: of the unread ones -> what it means."""

    roles: tuple[Answered, ...]
    outcomes: Mapping[str, str]


def answer_table(tally: Tally) -> AnswerTable:
    """The table of a tally; an outcome that no answer has is left out."""
    had = {name for counts in tally.counts.values() for name, count in counts.items() if count}
    outcomes = {name: told for name, told in OUTCOMES.items() if name in had - {READ}}
    return AnswerTable(
        tuple(
            Answered(
                role,
                Rate.of(counts[READ], counts.total()),
                {name: counts[name] for name in outcomes},
            )
            for role, counts in sorted(tally.counts.items())
        ),
        outcomes,
    )
