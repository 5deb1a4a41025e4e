"""The rows behind the report's figures: tables inside the page, each also a CSV file that a link
in the page holds whole, so that it can be saved without a network or a script."""

import csv
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING
from urllib.parse import quote

from sage_core.answers.tally import Tally
from sage_core.evaluation.classifiers import ClassifierFigures
from sage_core.evaluation.quality import MEASURES, Measurements
from sage_core.evaluation.steering import SteeringEvidence
from sage_core.evaluation.tournament import Design
from sage_core.evaluation.winrate import PairSummary
from sage_core.sac import parse
from sage_core.schema import Judgement, Trajectory
from sage_core.states import FIELDS

if TYPE_CHECKING:
    from sage_core.evaluation.report import ReportData

SHOWN = 100
"""Rows of a table that the page shows; its CSV has all."""

Cell = str | int | float | None


@dataclass(frozen=True)
class Rows:
    """A table behind a figure; ``name`` is that of its place in the page and of its CSV file."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    @property
    def file(self) -> str:
        """What the CSV file is called."""
        return re.sub(r"[^\w.-]+", "-", self.title).strip("-").lower() + ".csv"

    @property
    def csv(self) -> str:
        """The table as a ``data:`` address of a CSV file in UTF-8."""
        text = StringIO()
        writer = csv.writer(text, lineterminator="\r\n")  # RFC 4180
        writer.writerows([self.columns, *self.rows])
        return f"data:text/csv;charset=utf-8;base64,{b64encode(text.getvalue().encode()).decode()}"

    @property
    def shown(self) -> tuple[tuple[Cell, ...], ...]:
        """The rows that the page shows."""
        return self.rows[:SHOWN]


def of_run(
    data: "ReportData",
    judgements: Iterable[Judgement],
    rollouts: Mapping[str, Sequence[Trajectory]],
    measurements: Sequence[Measurements],
    searches: Mapping[str, Sequence[Trajectory]],
) -> tuple[Rows, ...]:
    """All tables of a report that have rows, in the order of its sections."""
    found = [
        win_rates(data.summaries),
        left_out(data.design),
        *judged(judgements),
        *answers(data.answers),
        *replies(rollouts),
        *measured(measurements),
        *classified(data.classified),
        doses(data.steering),
        losses(data.losses),
        searched(searches),
    ]
    return tuple(each for each in found if each.rows)


def judged(judgements: Iterable[Judgement]) -> list[Rows]:
    """Of each judge's pair, the verdicts on every item in both orders."""
    pairs: dict[tuple[str, str, str], dict[str, dict[str, str]]] = {}
    for row in judgements:
        items = pairs.setdefault((row.judge, row.model_a, row.model_b), {})
        named = {"model_a": row.model_a, "model_b": row.model_b}.get(row.verdict, row.verdict)
        items.setdefault(row.item_id, {})[row.order] = named
    return [
        Rows(
            judged_name(judge, a, b),
            f"Verdicts of {judge} on {a} and {b}",
            ("item", f"verdict, {a} first", f"verdict, {b} first"),
            tuple((item, each.get("ab", ""), each.get("ba", "")) for item, each in items.items()),
        )
        for (judge, a, b), items in pairs.items()
    ]


def answers(tally: Tally) -> list[Rows]:
    """How many answers of each role have which outcome, and those that were not read."""
    return [
        Rows(
            "answers",
            "Answers by outcome",
            ("role", "outcome", "answers"),
            tuple(
                (role, outcome, count)
                for role, counts in sorted(tally.counts.items())
                for outcome, count in counts.most_common()
            ),
        ),
        Rows(
            "unread",
            "Answers that were not read",
            ("role", "request", "outcome", "said"),
            tuple((each.role, each.request, each.outcome, each.said) for each in tally.unread),
        ),
    ]


def judged_name(judge: str, a: str, b: str) -> str:
    """The name of the table of a judge's pair."""
    return f"verdicts-{quote(judge, safe='')}-{a}-{b}"


def win_rates(summaries: Sequence[PairSummary]) -> Rows:
    """The win-rate table in numbers."""
    columns = tuple(PairSummary.__dataclass_fields__)
    return Rows(
        "win-rates",
        "Win rates",
        columns,
        tuple(tuple(getattr(each, name) for name in columns) for each in summaries),
    )


def left_out(design: Design | None) -> Rows:
    """The pairs of models that were not judged."""
    return Rows(
        "left-out",
        "Pairs that were not judged",
        ("model_a", "model_b", "width by way of other models", "situations needed"),
        tuple(
            (each.model_a, each.model_b, each.width, each.needed)
            for each in (design.left_out if design else ())
        ),
    )


def replies(rollouts: Mapping[str, Sequence[Trajectory]]) -> list[Rows]:
    """Of each model, all replies of its evaluation conversations with the states before them."""
    columns = (
        "situation", "emotion", "turn", "words", "question", "cut off",
        *(f"{who} {each.name}" for who in ("user", "agent") for each in FIELDS), "reply",
    )  # fmt: skip
    return [
        Rows(
            f"replies-{model}",
            f"Replies of {model}",
            columns,
            tuple(row for trajectory in trajectories for row in _replies(trajectory)),
        )
        for model, trajectories in rollouts.items()
    ]


def _replies(trajectory: Trajectory) -> Iterable[tuple[Cell, ...]]:
    for number, turn in enumerate(trajectory.turns):
        if turn.role != "assistant":
            continue
        chain = parse(turn.content)
        said = chain.utterance
        states = (
            "; ".join(field.of(state)) for state in (chain.user, chain.agent) for field in FIELDS
        )
        yield (
            trajectory.situation_id, trajectory.emotion, number, len(said.split()),
            int(said.rstrip().endswith("?")), int(turn.cut), *states, said,
        )  # fmt: skip


def measured(models: Sequence[Measurements]) -> list[Rows]:
    """Of each measure without a judge, the mean of every situation and of how many values it is,
    for all models."""
    found = []
    for measure in MEASURES:
        having = [each for each in models if measure.name in each.values]
        situations = sorted({name for each in having for name in each.values[measure.name]})
        rows = tuple(
            (situation, *(cell for each in having for cell in _mean(each, measure.name, situation)))
            for situation in situations
        )
        if rows:
            columns = (column for each in having for column in (each.model, f"{each.model}: n"))
            found.append(
                Rows(f"measure-{measure.name}", measure.title, ("situation", *columns), rows)
            )
    return found


def _mean(model: Measurements, measure: str, situation: str) -> tuple[Cell, Cell]:
    values = model.values[measure].get(situation, [])
    return (round(sum(values) / len(values), 6) if values else None), len(values)


def classified(found: Sequence[ClassifierFigures]) -> list[Rows]:
    """Of each classifier, the probability of its class for every reply."""
    return [
        Rows(
            f"classifier-{each.name}",
            f"{each.name} of replies",
            ("model", "situation", "reply", f"probability of {each.label}"),
            tuple(
                (model.model, situation, number, round(probability, 6))
                for model in each.models
                for situation, probabilities in model.values.items()
                for number, probability in enumerate(probabilities, start=1)
            ),
        )
        for each in found
    ]


def losses(curves: Mapping[str, Sequence[tuple[int, float]]]) -> Rows:
    """The training losses."""
    rows = tuple((model, *point) for model, points in curves.items() for point in points)
    return Rows("losses", "Training losses", ("model", "step", "loss"), rows)


def searched(searches: Mapping[str, Sequence[Trajectory]]) -> Rows:
    """The dialogues of all searches."""
    return Rows(
        "searches",
        "Dialogues of the searches",
        ("searched with", "dialogue", "situation", "turns", "tokens drawn", "ended", "notes"),
        tuple(
            (
                model, each.trajectory_id, each.situation_id, len(each.turns),
                each.generated_tokens, each.ended,
                "; ".join(note for turn in each.turns for note in turn.notes),
            )
            for model, trajectories in searches.items()
            for each in trajectories
        ),
    )  # fmt: skip


def doses(evidence: SteeringEvidence | None) -> Rows:
    """How often each boosted value was written."""
    return Rows(
        "doses",
        "Replies under a boost",
        ("field", "value", "boost", "replies with it", "replies"),
        tuple(
            (curve.field, curve.keyword, dose.boost, dose.share.hits, dose.share.n)
            for curve in (evidence.dose_responses if evidence else ())
            for dose in curve.doses
        ),
    )
