"""How much of a reply the action decides: the share of variance between actions.

S situations, A actions, W wordings drawn under each, and a score of D numbers of every wording
(one, or an embedding). Within each situation the sum of squares around the situation's mean divides
into one between the actions' means and one between the wordings of an action:

- eta squared = between / (between + within), over all situations. It is positive by chance alone,
  by (A - 1) / (A W - 1) on average where the action decides nothing.
- omega squared = (between - f MS) / (between + within + MS) with f = S (A - 1) and MS = within /
  (S A (W - 1)), which takes that off (Hays 1963): 0 on average where the action decides nothing.
- p: a permutation test. Actions are dealt anew among the wordings of each situation.

For a score of several numbers squares are Euclidean, as in PERMANOVA (Anderson 2001).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Decided:
    """``n`` situations; the 95% interval is of omega squared, by a percentile bootstrap over them,
    None below two. All are None where nothing varies or nothing was measured."""

    n: int
    eta_squared: float | None
    omega_squared: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: float | None


def decided(
    scores: NDArray[np.float64], *, samples: int = 2_000, permutations: int = 999, seed: int = 0
) -> Decided:
    """The share of the variance of ``scores`` (S, A, W, D) that is between actions, W > 1."""
    n, actions, wordings, _ = scores.shape
    between, within = _squares(scores)
    if n == 0 or actions < 2 or wordings < 2 or float((between + within).sum()) <= 1e-12:
        return Decided(n, None, None, None, None, None)
    eta = float(between.sum() / (between + within).sum())
    omega = _omega(between.sum(), within.sum(), n, actions, wordings)
    rng = np.random.default_rng(seed)
    low = high = None
    if n > 1:
        rows = rng.integers(0, n, size=(samples, n))
        drawn = _omega(between[rows].sum(1), within[rows].sum(1), n, actions, wordings)
        tail = 100 * (1 - _CONFIDENCE) / 2
        low, high = (float(end) for end in np.nanpercentile(drawn, [tail, 100 - tail]))
    flat = scores.reshape(n, actions * wordings, -1)
    total = float((between + within).sum())
    as_large = 0
    for _ in range(permutations):
        order = rng.permuted(np.tile(np.arange(actions * wordings), (n, 1)), axis=1)
        dealt = np.take_along_axis(flat, order[..., None], axis=1).reshape(scores.shape)
        as_large += bool(_squares(dealt)[0].sum() / total >= eta - 1e-12)
    p_value = (1 + as_large) / (1 + permutations)
    return Decided(n, eta, float(omega), low, high, p_value)


def _squares(scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of squares (S,) between actions and between wordings of an action."""
    of_action = scores.mean(axis=2, keepdims=True)
    of_situation = of_action.mean(axis=1, keepdims=True)
    between = scores.shape[2] * ((of_action - of_situation) ** 2).sum(axis=(1, 2, 3))
    within = ((scores - of_action) ** 2).sum(axis=(1, 2, 3))
    return between, within


def _omega(
    between: NDArray[np.float64], within: NDArray[np.float64], n: int, actions: int, wordings: int
) -> NDArray[np.float64]:
    mean_square = within / (n * actions * (wordings - 1))
    with np.errstate(invalid="ignore"):  # a bootstrap draw of situations that do not vary
        share: NDArray[np.float64] = (between - n * (actions - 1) * mean_square) / (
            between + within + mean_square
        )
    return share
