"""How many answers of a stage were read, and which were not."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sage_core.answers.outcomes import ADVICE, OUTCOMES, READ, Reading
from sage_core.errors import AnswersError

_SHOWN = 300  # characters of an unread answer that are kept
_ENOUGH = 20  # requests from which a part of a stage tells about the whole
_HOPELESS = 0.5


@dataclass(frozen=True)
class Unread:
    """A request without an answer: who was asked, the request's id, what became of it, and what the
    model or the server said."""

    role: str
    request: str
    outcome: str
    said: str


@dataclass
class Tally:
    """The outcomes of a stage by role, and its unread items."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    unread: list[Unread] = field(default_factory=list)

    def add(self, role: str, request: str, outcome: str, said: str = "") -> None:
        """Count one request."""
        self.counts.setdefault(role, Counter())[outcome] += 1
        if outcome != READ:
            self.unread.append(Unread(role, request, outcome, _short(said)))

    def add_readings(
        self, role: str, requests: Iterable[str], readings: Iterable[Reading[Any]]
    ) -> None:
        """Count requests, by their ids, with their readings."""
        for request, reading in zip(requests, readings, strict=True):
            self.add(role, request, reading.outcome, reading.said)

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "roles": {
                role: {"asked": counts.total(), **dict(sorted(counts.items()))}
                for role, counts in sorted(self.counts.items())
            },
            "unread": [asdict(each) for each in self.unread],
        }

    def lines(self) -> list[str]:
        """What was read and what was not, a line a role."""
        return [
            f"{role}: {_counted(counts[READ], counts.total())} answers read"
            + "".join(f", {n} {outcome}" for outcome, n in _unread(counts))
            for role, counts in sorted(self.counts.items())
        ]

    def check(self, most: float, setting: str) -> None:
        """Check that each role's share of unread answers is at most ``most``, which ``setting``
        sets.

        Raises:
            AnswersError: it is not; with the counts, an example and what to change.
        """
        for role, counts in sorted(self.counts.items()):
            total = counts.total()
            missing = total - counts[READ]
            if missing <= most * total:
                continue
            parts = _unread(counts)
            worst = parts[0][0]
            example = next(
                each for each in self.unread if each.role == role and each.outcome == worst
            )
            said = f"'{example.said}'" if example.said else "nothing was said"
            raise AnswersError(
                f"{role}: {_counted(missing, total)} answers could not be read ("
                + ", ".join(f"{n} {outcome}: {OUTCOMES[outcome]}" for outcome, n in parts)
                + f"), more than {setting} = {most:g} allows. For example, '{example.request}' "
                f"({worst}): {said}. To fix: {ADVICE[worst]}; or raise {setting}. Start again, "
                "and only the unread ones are asked again"
            )

    def check_part(self, most: float, setting: str) -> None:
        """:meth:`check` of a part of a stage, early: whether it is hopeless to ask on, because more
        than half of many answers were not read."""
        for role, counts in self.counts.items():
            if counts.total() >= _ENOUGH:
                of_role = [each for each in self.unread if each.role == role]
                Tally({role: counts}, of_role).check(max(most, _HOPELESS), setting)


def joined(parts: Sequence[dict[str, Any]]) -> Tally:
    """The tally of a stage, from those of its parts as JSON values."""
    whole = Tally()
    for part in parts:
        for role, counts in part["roles"].items():
            found = Counter({name: n for name, n in counts.items() if name != "asked"})
            whole.counts.setdefault(role, Counter()).update(found)
        whole.unread += [Unread(**each) for each in part["unread"]]
    return whole


def _unread(counts: Counter[str]) -> list[tuple[str, int]]:
    """The outcomes other than ``read``, the most frequent first."""
    return [(outcome, n) for outcome, n in counts.most_common() if outcome != READ]


def _counted(number: int, total: int) -> str:
    return f"{number} of {total}"


def _short(said: str) -> str:
    text = " ".join(said.split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
