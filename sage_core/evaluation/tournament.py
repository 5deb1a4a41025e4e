"""Which pairs of models are judged: the paper's, all, or those that a given width needs.

A pair of models can also be compared through others. If each comparison of two models had the
variance v, the difference of two models would have v times the resistance between them in the
network of judged pairs, each a resistor of 1. A pair's difference of wins has at most the variance
1 / n over n situations (no ties, no difference), so the widths are upper bounds.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sage_core.config.evaluation import EvaluationConfig
from sage_core.evaluation.judge import model_pairs

Pairs = list[tuple[str, str]]
_CONFIDENCE = 0.95


def judged_pairs(config: EvaluationConfig, models: Sequence[str], situations: int) -> Pairs:
    """The pairs that the configuration asks for, of ``models`` on as many ``situations``."""
    if config.pairs == "paper":
        return model_pairs(models)
    if config.pairs == "all":
        return list(combinations(models, 2))
    return designed(models, situations, config.interval_width)


def designed(models: Sequence[str], situations: int, width: float) -> Pairs:
    """The pairs for 95% intervals of at most ``width`` between any two models, by both ways; all
    pairs where these do not suffice.

    Each model is compared with the first one; then the two models that are furthest apart are
    compared, until no interval is wider. ``width`` is of the difference of wins over items, as in
    ``PairSummary``, whose range is 2.
    """
    every = list(combinations(models, 2))
    pairs = [pair for pair in every if pair[0] == models[0]]
    while len(pairs) < len(every):
        widths = _widths(models, pairs, situations)
        if widths.max() <= width:
            break
        left = [pair for pair in every if pair not in pairs]
        apart = [widths[models.index(a), models.index(b)] for a, b in left]
        pairs.append(left[int(np.argmax(np.round(apart, 9)))])
    return pairs


def widest(models: Sequence[str], pairs: Sequence[tuple[str, str]], situations: int) -> float:
    """The width of the widest interval between two models that ``pairs`` give, at most."""
    return float(_widths(models, pairs, situations).max())


def _widths(
    models: Sequence[str], pairs: Sequence[tuple[str, str]], situations: int
) -> NDArray[np.float64]:
    """The widths of the intervals between any two models; (models, models)."""
    laplacian = np.zeros((len(models), len(models)))
    for a, b in pairs:
        one, other = models.index(a), models.index(b)
        laplacian[[one, other], [one, other]] += 1
        laplacian[[one, other], [other, one]] -= 1
    inverse = np.linalg.pinv(laplacian)
    own = np.diag(inverse)
    resistance = np.maximum(own[:, None] + own[None, :] - 2 * inverse, 0)
    z = float(stats.norm.ppf((1 + _CONFIDENCE) / 2))
    found: NDArray[np.float64] = 2 * z * np.sqrt(resistance / situations)
    return found
