"""Figures of conversations that need no judge: what each measure is called and means, shares and
means of each model, and each later model against m1 on the same situations.

:mod:`sage_core.evaluation.measuring` takes the measurements that these are made from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sage_core.evaluation.metrics import CONFIDENCE, Mean, Rate

Values = dict[str, list[float]]
"""Situation -> the values of its replies, utterances or dialogue; shares are of 0s and 1s."""

BASELINE = "m1"
_BOOTSTRAP_CELLS = 10**7  # numbers drawn together, as in winrate


@dataclass(frozen=True)
class Measure:
    """A measure as it is shown.

    Attributes:
        name: of its metric in MLflow.
        title: of its row in tables.
        meaning: one sentence for a reader who has not read the code.
        of: what its n counts.
        share: whether it is a share; else a mean.
    """

    name: str
    title: str
    meaning: str
    of: str
    share: bool


MEASURES = tuple(
    Measure(*row)
    for row in (
        ("situation_recovery", "Situation recovered by m0",
         "Shown the reply and several situations, m0 finds the one that the reply answers.",
         "first replies", True),
        ("situation_recovery_embedding", "Situation recovered by embeddings",
         "The same, by the similarity of sentence embeddings, which know nothing of m0.",
         "first replies", True),
        ("situation_rank", "Rank of the situation, m0",
         "Where the true situation is among those compared, 1 being the first.",
         "first replies", False),
        ("situation_rank_embedding", "Rank of the situation, embeddings",
         "The same, by the similarity of sentence embeddings.", "first replies", False),
        ("loglik_m0", "Log-likelihood under m0",
         "Nats per token: how expected the words are to the base model. Far below m0's own means "
         "text that is hard to read.", "replies", False),
        ("content_overlap", "Words taken up",
         "Of the words of a reply that carry content, the share that the person used before.",
         "replies", False),
        ("sentiment_agreement", "Same sentiment",
         "The reply and what it answers are both positive, both negative, or both neutral (VADER).",
         "replies", True),
        ("emotion_accuracy", "User's emotion, exactly",
         "The model's first guess at the person's emotion is the situation's label.",
         "dialogues", True),
        ("emotion_polarity", "User's emotion, good or bad",
         "The guess is as good or as bad a feeling as the label; mixed labels are left out.",
         "dialogues", True),
        ("reply_words", "Words of a reply", "States not counted.", "replies", False),
        ("question_rate", "Questions", "The reply ends in a question mark.", "replies", True),
        ("cut_share", "Cut off",
         "The reply was still going on when the tokens allowed were used up.", "replies", True),
        ("stray_braces", "Stray braces",
         "An utterance of the model or of the simulated person has braces or keys of states in it.",
         "utterances", True),
    )
)  # fmt: skip


@dataclass(frozen=True)
class Measurements:
    """What was measured of one model.

    Attributes:
        scorer: which second scorer it was.
        compared: situations that each first reply was matched with, the true one included.
        notes: what could not be measured, by reason, and how often.
        values: by measure; one that could not be measured is not there.
    """

    model: str
    scorer: str
    compared: int
    notes: dict[str, int]
    values: dict[str, Values]

    def rate(self, measure: str) -> Rate:
        """A share over all situations."""
        found = _flat(self.values.get(measure, {}))
        return Rate.of(round(sum(found)), len(found))


@dataclass(frozen=True)
class Difference:
    """A model's value less m1's over the ``n`` situations that both have, with the 95% interval of
    a paired bootstrap over them; the interval is None below n = 2."""

    n: int
    value: float | None
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True)
class Figure:
    """A share with its Wilson interval, or a mean with its t-interval, of ``n`` cases. The interval
    takes cases as independent: two replies of one dialogue are less than that."""

    n: int
    value: float | None
    ci_low: float | None
    ci_high: float | None
    vs_m1: Difference | None = None


@dataclass(frozen=True)
class ModelQuality:
    """One model's figures, by measure, in the order of :data:`MEASURES`."""

    model: str
    figures: dict[str, Figure]
    notes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Quality:
    """All models' figures; see :class:`Measurements` for the rest."""

    scorer: str
    compared: int
    models: tuple[ModelQuality, ...]


def compare(measured: Sequence[Measurements], bootstrap_samples: int, seed: int) -> Quality:
    """Shares and means of each model, in the order of their making; those after m1 are held against
    it."""
    baseline: Measurements | None = None
    models = []
    for each in measured:
        figures = {}
        for kind in MEASURES:
            if kind.name not in each.values:
                continue
            found = _flat(each.values[kind.name])
            if kind.share:
                rate = Rate.of(round(sum(found)), len(found))
                shown = (rate.n, rate.value, rate.ci_low, rate.ci_high)
            else:
                mean = Mean.of(found)
                shown = (mean.n, mean.value, mean.ci_low, mean.ci_high)
            versus = None
            if baseline is not None and kind.name in baseline.values:
                versus = paired_difference(
                    baseline.values[kind.name], each.values[kind.name], bootstrap_samples, seed
                )
            figures[kind.name] = Figure(*shown, versus)
        models.append(ModelQuality(each.model, figures, each.notes))
        if each.model == BASELINE:
            baseline = each
    return Quality(
        scorer=measured[0].scorer if measured else "",
        compared=max((each.compared for each in measured), default=0),
        models=tuple(models),
    )


def paired_difference(before: Values, after: Values, samples: int, seed: int) -> Difference:
    """The difference of two means over the situations that have values in both; see
    :class:`Difference`. Situations are drawn anew with all of their values, in both models alike.
    """
    shared = sorted(name for name in before if before[name] and after.get(name))
    if not shared:
        return Difference(0, None, None, None)
    columns = [
        np.array([reduce(values[name]) for name in shared], dtype=float)
        for values in (before, after)
        for reduce in (sum, len)
    ]
    point = float(_difference(columns[0], columns[1], columns[2], columns[3]))
    if len(shared) < 2:
        return Difference(1, point, None, None)
    if all(len(set(column)) == 1 for column in columns):  # SciPy refuses what does not vary
        return Difference(len(shared), point, point, point)
    interval = stats.bootstrap(
        columns,
        _difference,
        paired=True,
        vectorized=True,
        n_resamples=samples,
        batch=max(1, _BOOTSTRAP_CELLS // len(shared)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=seed,
    ).confidence_interval
    return Difference(len(shared), point, float(interval.low), float(interval.high))


def _difference(
    before: NDArray[np.float64],
    n_before: NDArray[np.float64],
    after: NDArray[np.float64],
    n_after: NDArray[np.float64],
    axis: int = -1,
) -> NDArray[np.float64]:
    difference: NDArray[np.float64] = after.sum(axis=axis) / n_after.sum(axis=axis) - before.sum(
        axis=axis
    ) / n_before.sum(axis=axis)
    return difference


def key_figures(model: ModelQuality) -> dict[str, float]:
    """The figures to log, named for a tracker: each measure, and its interval against m1."""
    values: dict[str, float | None] = {}
    for name, figure in model.figures.items():
        values[name] = figure.value
        if figure.vs_m1 is not None:
            values[f"{name}.vs_m1"] = figure.vs_m1.value
            values[f"{name}.vs_m1.ci_low"] = figure.vs_m1.ci_low
            values[f"{name}.vs_m1.ci_high"] = figure.vs_m1.ci_high
    return {name: value for name, value in values.items() if value is not None}


def _flat(values: Values) -> list[float]:
    return [value for name in sorted(values) for value in values[name]]
