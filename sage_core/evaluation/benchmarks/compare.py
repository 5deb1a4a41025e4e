"""Models against a baseline: relative change, and a paired test on the same documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from sage_core.errors import DataError
from sage_core.evaluation.benchmarks.harness import Score
from sage_core.schema import BenchmarkDocument


@dataclass(frozen=True)
class Scored:
    """What one model got on one benchmark."""

    model: str
    title: str
    shown: str
    licence: str
    scores: tuple[Score, ...]
    documents: tuple[BenchmarkDocument, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """A model's figure less the baseline's.

    Attributes:
        relative: of the baseline's value, as in the paper's Table 2; None where that is 0.
        gained: documents with a higher value than under the baseline, ``lost``: with a lower one.
        p_value: two-sided and paired: McNemar's exact test where a document is right or wrong, else
            Wilcoxon's signed-rank test.
        p_holm: by Holm's method over all models and benchmarks, of the metrics that tables show;
            None for the others.
    """

    model: str
    task: str
    metric: str
    n: int
    difference: float
    relative: float | None
    gained: int
    lost: int
    p_value: float
    p_holm: float | None = None


def changes(scored: Sequence[Scored], baseline: str) -> list[Change]:
    """Every model's figures against those of the model ``baseline``, where that has them.

    Raises:
        DataError: two models were asked other documents, or under other versions of a benchmark.
    """
    bases = {each.scores[0].task: each for each in scored if each.model == baseline}
    found = [
        (_change(each.model, before, after, base, each), before.metric == each.shown)
        for each in scored
        if each.model != baseline and (base := bases.get(each.scores[0].task))
        for before, after in _pairs(base, each)
    ]
    shown = [change.p_value for change, is_shown in found if is_shown]
    adjusted = iter(multipletests(shown, method="holm")[1] if shown else ())
    return [
        replace(change, p_holm=float(next(adjusted))) if is_shown else change
        for change, is_shown in found
    ]


def _pairs(base: Scored, other: Scored) -> list[tuple[Score, Score]]:
    after = {score.metric: score for score in other.scores}
    pairs = [(score, after[score.metric]) for score in base.scores if score.metric in after]
    for before, now in pairs:
        if (before.version, before.split, before.n) != (now.version, now.split, now.n):
            raise DataError(
                f"benchmark '{before.task}': {base.model} has version '{before.version}', split "
                f"'{before.split}', n = {before.n}; {other.model} has '{now.version}', "
                f"'{now.split}', n = {now.n}; run both again"
            )
    return pairs


def _change(model: str, before: Score, after: Score, base: Scored, other: Scored) -> Change:
    first, second = _values(base, before.metric), _values(other, before.metric)
    if first.keys() != second.keys():
        raise DataError(
            f"benchmark '{before.task}': {base.model} and {model} were asked other documents "
            f"({len(first.keys() ^ second.keys())} differ); run both again on the same files"
        )
    differences = np.array([second[key] - first[key] for key in first])
    gained, lost = int((differences > 0).sum()), int((differences < 0).sum())
    return Change(
        model=model,
        task=before.task,
        metric=before.metric,
        n=len(differences),
        difference=after.value - before.value,
        relative=(after.value - before.value) / before.value if before.value else None,
        gained=gained,
        lost=lost,
        p_value=_p_value(first, second, differences, gained, lost),
    )


def _p_value(
    first: Mapping[tuple[str, str], float],
    second: Mapping[tuple[str, str], float],
    differences: "np.ndarray",
    gained: int,
    lost: int,
) -> float:
    if not gained + lost:
        return 1.0
    if {*first.values(), *second.values()} <= {0.0, 1.0}:
        # Only the documents off the diagonal count in the exact test.
        return float(mcnemar([[0, gained], [lost, 0]], exact=True).pvalue)
    return float(stats.wilcoxon(differences).pvalue)


def _values(scored: Scored, metric: str) -> dict[tuple[str, str], float]:
    return {
        (each.document, each.hash): each.value for each in scored.documents if each.metric == metric
    }
