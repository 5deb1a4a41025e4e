"""Finished runs side by side: settings that differ, models, win rates and costs.

Runs are named A, B, C, … in the order that they are given. A model's difference from run A's model
of the same name is taken on the situations that both talked about, by the paired bootstrap that a
report uses within a run. In each run the simulated person was played by that run's own m1: so a
difference between two runs can come from the person too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from sage_core.config.differences import Setting, differences
from sage_core.config.pipeline import PipelineConfig
from sage_core.evaluation.answer import TOLD, Finding, answer, finding
from sage_core.evaluation.quality import (
    MEASURES,
    Difference,
    Figure,
    Measurements,
    Quality,
    paired_difference,
)
from sage_core.evaluation.report import FILTERS, SHARED
from sage_core.evaluation.winrate import PairSummary
from sage_core.packaged import page_template

SHOWN = tuple(measure for measure in MEASURES if measure.name in TOLD)
"""The measures that are compared."""


@dataclass(frozen=True)
class Cost:
    """What the stages of one kind took when they were made: seconds, and the tokens that models
    read and wrote."""

    seconds: float
    read: int
    written: int


@dataclass(frozen=True)
class FinishedRun:
    """A run as it is compared.

    Attributes:
        name: A, B, C, …
        title: the name of its settings.
        place: the folder of its report.
        measured: the models' measurements by situation, in the order of their making.
        costs: by stage.
    """

    name: str
    title: str
    place: str
    config: PipelineConfig
    summaries: tuple[PairSummary, ...]
    quality: Quality
    measured: tuple[Measurements, ...]
    costs: dict[str, Cost]

    @property
    def total(self) -> Cost:
        """What all stages took."""
        used = self.costs.values()
        return Cost(
            sum(each.seconds for each in used),
            sum(each.read for each in used),
            sum(each.written for each in used),
        )

    def figure(self, model: str, measure: str) -> Figure | None:
        """A figure of one model, if it was measured."""
        figures = {each.model: each.figures for each in self.quality.models}
        return figures.get(model, {}).get(measure)


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found.

    Attributes:
        models: all models of all runs.
        changes: run -> model -> measure -> its difference from run A's model of that name.
        pairs: the pairs that were judged within runs.
        across: models of different runs, judged on the same situations.
    """

    runs: tuple[FinishedRun, ...]
    settings: tuple[Setting, ...]
    models: tuple[str, ...]
    changes: dict[str, dict[str, dict[str, Difference]]]
    pairs: tuple[tuple[str, str], ...]
    across: tuple[PairSummary, ...] = ()
    findings: tuple[Finding, ...] = ()

    def summary(self, run: FinishedRun, judge: str, pair: tuple[str, str]) -> PairSummary | None:
        """What a run's judge says of a pair."""
        for each in run.summaries:
            if (each.judge, each.model_a, each.model_b) == (judge, *pair):
                return each
        return None

    @property
    def same(self) -> tuple[str, ...]:
        """The models of which all runs measured the same, such as those made before a setting
        that differs counts."""
        by_run = [{each.model: each for each in run.measured} for run in self.runs]
        return tuple(
            model
            for model in self.models
            if model in by_run[0]
            and all(found.get(model) == by_run[0][model] for found in by_run[1:])
        )

    @property
    def shown(self) -> tuple[str, ...]:
        """The models to show side by side: those that are not the same, or all."""
        return tuple(model for model in self.models if model not in self.same) or self.models

    @property
    def judges(self) -> tuple[str, ...]:
        """The judges of all runs."""
        return tuple(dict.fromkeys(each.judge for run in self.runs for each in run.summaries))

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of all runs, each after those that it needs."""
        return tuple(dict.fromkeys(stage for run in self.runs for stage in run.costs))


def run_names(count: int) -> list[str]:
    """A, B, …, Z, A2, B2, …"""
    return [
        ascii_uppercase[number % 26] + (str(number // 26 + 1) if number >= 26 else "")
        for number in range(count)
    ]


def compare(runs: Sequence[FinishedRun], across: Sequence[PairSummary] = ()) -> Comparison:
    """Compare finished runs; ``across``: judged pairs of models of different runs."""
    first = runs[0]
    pairs = dict.fromkeys((each.model_a, each.model_b) for run in runs for each in run.summaries)
    judged = dict.fromkeys((each.model_a, each.model_b) for each in across)
    return Comparison(
        runs=tuple(runs),
        settings=tuple(differences([run.config for run in runs])),
        models=tuple(dict.fromkeys(each.model for run in runs for each in run.quality.models)),
        changes={run.name: _changes(first, run) for run in runs[1:]},
        pairs=tuple(pairs),
        across=tuple(across),
        findings=tuple(finding(pair, across, None) for pair in judged),
    )


def answers(run: FinishedRun) -> str:
    """A run's own answer, in one sentence."""
    found = answer(run.summaries, run.quality)
    return found.headline.text if found else "Nothing was judged."


def _changes(first: FinishedRun, run: FinishedRun) -> dict[str, dict[str, Difference]]:
    before: Mapping[str, Measurements] = {each.model: each for each in first.measured}
    return {
        each.model: {
            measure.name: paired_difference(
                before[each.model].values[measure.name],
                each.values[measure.name],
                first.config.evaluation.bootstrap_samples,
                first.config.seed,
            )
            for measure in SHOWN
            if measure.name in each.values and measure.name in before[each.model].values
        }
        for each in run.measured
        if each.model in before
    }


def render_comparison(comparison: Comparison) -> str:
    """The comparison as one HTML page that stands alone, as the report does."""
    template = page_template("compare.html.jinja", FILTERS, SHARED)
    return template.render(
        data={"title": f"Comparison of {len(comparison.runs)} runs"},
        found=comparison,
        answers={run.name: answers(run) for run in comparison.runs},
        shown=SHOWN,
    )
