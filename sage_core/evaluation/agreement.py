"""How far judges agree with themselves, with each other, and across families."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isfinite
from typing import Any

import evalica
import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix
from statsmodels.stats.inter_rater import cohens_kappa

from sage_core.evaluation.metrics import CONFIDENCE, Mean, Rate
from sage_core.evaluation.outcomes import Items, Pair, outcome
from sage_core.schema import Verdict

_LABELS: tuple[Verdict, ...] = ("model_a", "tie", "model_b")
_RESAMPLES = 1_000


@dataclass(frozen=True)
class Agreement:
    """A chance-corrected agreement on ``n`` items, 1 = full, 0 = by chance, with its 95% interval.

    ``value`` is None where all labels are the same, so that chance alone agrees fully; the interval
    too where there is only one item.
    """

    n: int
    value: float | None
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True)
class JudgeAgreement:
    """Two judges on the items that both judged: ``same`` outcome, and Cohen's kappa."""

    judge_a: str
    judge_b: str
    same: Rate
    kappa: Agreement


@dataclass(frozen=True)
class FamilyGap:
    """How much more the judges of the selector's family prefer ``model_b`` than the others do.

    Attributes:
        own, other: mean of wins of ``model_b`` less wins of ``model_a`` an item, in [-1, 1].
        gap: own less other on the same items.
    """

    model_a: str
    model_b: str
    own: Mean
    other: Mean
    gap: Mean


def position_consistency(pairs: Mapping[Pair, Items]) -> dict[str, Rate]:
    """Per judge, of the items with both orders parsed, those whose two verdicts are the same."""
    same: dict[str, list[bool]] = {}
    for (judge, _, _), items in pairs.items():
        found = same.setdefault(judge, [])
        for shown in items.values():
            if outcome(shown) != "unparsed":
                found.append(shown["ab"].verdict == shown["ba"].verdict)
    return {judge: Rate.of(sum(each), len(each)) for judge, each in same.items()}


def kappa(first: Sequence[str], second: Sequence[str]) -> Agreement:
    """Cohen's kappa of two raters' labels of the same items (statsmodels, with the asymptotic
    interval of Fleiss, Cohen and Everitt, 1969)."""
    n = len(first)
    if n == 0 or len({*first, *second}) < 2:
        return Agreement(n, None, None, None)
    table = confusion_matrix(first, second)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = cohens_kappa(table)
    value, low, high = (float(each) for each in (found.kappa, found.kappa_low, found.kappa_upp))
    if n == 1 or not isfinite(low) or low == high:  # no variance was seen, which is no certainty
        return Agreement(n, value, None, None)
    return Agreement(n, value, max(low, -1.0), min(high, 1.0))


def between_judges(pairs: Mapping[Pair, Items]) -> list[JudgeAgreement]:
    """Every two judges on the items that both judged, with both orders parsed."""
    rated = _outcomes(pairs)
    found = []
    for one, other in combinations(rated.columns, 2):
        both = rated[[one, other]].dropna()
        labels = [[_LABELS[int(code)] for code in both[judge]] for judge in (one, other)]
        same = sum(a == b for a, b in zip(*labels, strict=True))
        found.append(JudgeAgreement(str(one), str(other), Rate.of(same, len(both)), kappa(*labels)))
    return found


def krippendorff(pairs: Mapping[Pair, Items], seed: int = 0) -> Agreement:
    """Krippendorff's alpha of all judges' outcomes, as nominal labels; a judge may lack items. The
    interval is Krippendorff's bootstrap (2006); both are the package ``evalica``'s."""
    rated = _outcomes(pairs).dropna(thresh=2)
    values = rated.to_numpy()
    if len(np.unique(values[~np.isnan(values)])) < 2:
        return Agreement(len(rated), None, None, None)
    found: Any = evalica.alpha_bootstrap(
        rated.T, n_resamples=_RESAMPLES, confidence_level=CONFIDENCE, random_state=seed
    )
    return Agreement(len(rated), found.alpha, found.low, found.high)


def family_gaps(
    pairs: Mapping[Pair, Items], families: Mapping[str, str], own: str
) -> list[FamilyGap]:
    """For each pair of models that both kinds of judges judged, in order of appearance: how much
    more those of the family ``own`` prefer ``model_b``."""
    rated = _outcomes(pairs).replace({0: -1.0, 1: 0.0, 2: 1.0})
    of_family = [judge for judge in rated.columns if families.get(str(judge)) == own]
    others = [judge for judge in rated.columns if families.get(str(judge)) not in (own, None, "")]
    if not of_family or not others:
        return []
    found = []
    for (a, b), rows in rated.groupby(level=["a", "b"], sort=False):
        means = pd.DataFrame(
            {"own": rows[of_family].mean(axis=1), "other": rows[others].mean(axis=1)}
        ).dropna()
        if len(means):
            gap = (means["own"] - means["other"]).tolist()
            own_mean, other_mean = (Mean.of(means[each].tolist()) for each in ("own", "other"))
            found.append(FamilyGap(str(a), str(b), own_mean, other_mean, Mean.of(gap)))
    return found


def _outcomes(pairs: Mapping[Pair, Items]) -> pd.DataFrame:
    """Each item's outcome by judge: rows (a, b, item), columns judges, values 0, 1, 2 in the order
    of the labels; NaN where a judge has none. Pairs are named as the first judge names them."""
    named: dict[frozenset[str], tuple[str, str]] = {}
    columns: dict[str, dict[tuple[str, str, str], float]] = {}
    for (judge, a, b), items in pairs.items():
        pair = named.setdefault(frozenset((a, b)), (a, b))
        column = columns.setdefault(judge, {})
        for item, shown in items.items():
            found = outcome(shown)
            if found != "unparsed":
                code = _LABELS.index(found)
                column[(*pair, item)] = float(code if pair == (a, b) else 2 - code)
    keys = list(dict.fromkeys(key for column in columns.values() for key in column))
    sides = [list(side) for side in zip(*keys, strict=True)] or [[], [], []]
    return pd.DataFrame(
        {judge: [column.get(key, np.nan) for key in keys] for judge, column in columns.items()},
        index=pd.MultiIndex.from_arrays(sides, names=["a", "b", "item"]),
    )
