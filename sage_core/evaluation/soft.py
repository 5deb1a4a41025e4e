"""Soft verdicts: how much a judge prefers a model, from the probabilities of its answers.

Each showing has the log-odds of the answers that name a model. An item's preference is the mean of
both orders' log-odds. What a judge adds for a position is added in one order and taken off in the
other, so it is removed, where the paper's rule makes a tie of the item.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sage_core.evaluation.metrics import Mean, Rate
from sage_core.evaluation.outcomes import ORDERS, Items, Pair, Shown, outcome

_WORTH = {"model_a": -1.0, "tie": 0.0, "model_b": 1.0}


@dataclass(frozen=True)
class SoftSummary:
    """One judge's preference for ``model_b`` over ``model_a``, beside the paper's rule.

    Attributes:
        log_odds: mean over items, in nats, with a 95% t-interval; positive favours ``model_b``.
        wins_b: of the items that prefer a model at all, those that prefer ``model_b``.
        position: mean log-odds that being shown first adds.
        p_value: two-sided t-test of ``log_odds``, which the interval is of; None below two items
            or where they do not vary.
        fewer: situations that the soft rule needs over those that the paper's rule needs for the
            same power, by the standardised effects of both on the same items. Below 1 the soft rule
            is the stronger one; None where either shows no effect at all.
    """

    judge: str
    model_a: str
    model_b: str
    n: int
    log_odds: Mean
    wins_b: Rate
    position: Mean
    p_value: float | None
    fewer: float | None


def soft_summaries(pairs: Mapping[Pair, Items]) -> list[SoftSummary]:
    """The soft verdicts of each pair that has log-odds for both orders of an item."""
    found = []
    for (judge, a, b), items in pairs.items():
        both = [shown for shown in items.values() if _has_both(shown)]
        if not both:
            continue
        odds = np.array([[_log_odds(shown, order) for order in ORDERS] for shown in both])
        preference = odds.mean(axis=1)
        hard = np.array([_WORTH[outcome(shown)] for shown in both if outcome(shown) in _WORTH])
        preferring = preference[preference != 0]
        found.append(
            SoftSummary(
                judge, a, b, len(both),
                log_odds=Mean.of(preference.tolist()),
                wins_b=Rate.of(int((preferring > 0).sum()), len(preferring)),
                # In order ab model_a is first, so being first lowers the log-odds of model_b.
                position=Mean.of(((odds[:, 1] - odds[:, 0]) / 2).tolist()),
                p_value=_p_value(preference),
                fewer=_ratio(_effect(hard), _effect(preference)),
            )
        )  # fmt: skip
    return found


def _has_both(shown: Shown) -> bool:
    return all(order in shown and shown[order].log_odds is not None for order in ORDERS)


def _log_odds(shown: Shown, order: str) -> float:
    found = shown[order].log_odds  # type: ignore[index]
    assert found is not None
    return found


def _p_value(values: NDArray[np.float64]) -> float | None:
    if len(values) < 2 or np.ptp(values) == 0:
        return None
    return float(stats.ttest_1samp(values, 0).pvalue)


def _effect(values: NDArray[np.float64]) -> float | None:
    """The mean over the standard deviation; None where there is none."""
    if len(values) < 2 or np.ptp(values) == 0 or values.mean() == 0:
        return None
    return float(values.mean() / values.std(ddof=1))


def _ratio(hard: float | None, soft: float | None) -> float | None:
    """How the numbers of items compare that two effects need: by their squares."""
    return None if hard is None or soft is None else (hard / soft) ** 2
