"""Which pairs of models are judged: the paper's, all, or those that a given width needs.

A pair of models can also be compared through others. If each comparison of two models had the
variance v, the difference of two models would have v times the resistance between them in the
network of judged pairs, each a resistor of 1. A pair's difference of wins has at most the variance
1 / n over n situations (no ties, no difference), so the widths are upper bounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil, isfinite

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse.csgraph import connected_components

from sage_core.config.evaluation import EvaluationConfig
from sage_core.evaluation.judge import model_pairs

Pairs = list[tuple[str, str]]
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class LeftOut:
    """Two models that no judge compared with each other.

    Attributes:
        width: of the 95% interval of their difference, by way of other models, at most; None where
            no way leads from one to the other.
        needed: situations for an interval of the width asked, by the same way.
    """

    model_a: str
    model_b: str
    width: float | None
    needed: int | None


@dataclass(frozen=True)
class Design:
    """What the judged pairs can tell of all models.

    Attributes:
        pairs: as ``evaluation.pairs``.
        judged: how many pairs were.
        width: as ``evaluation.interval_width``.
        widest: the widest 95% interval between two models, at most; None where two are not
            connected.
        needed: situations that these pairs need for ``width`` between any two models.
        all_pairs: situations that all pairs need for it.
        left_out: pairs that were not judged.
    """

    pairs: str
    judged: int
    situations: int
    width: float
    widest: float | None
    needed: int | None
    all_pairs: int
    left_out: tuple[LeftOut, ...]

    @property
    def in_words(self) -> str:
        """How many pairs were left out, and what an interval of the width asked needs."""
        every = self.judged + len(self.left_out)
        told = f"{self.judged} of {every} pairs of models were judged"
        if self.left_out:
            told += f" (evaluation.pairs={self.pairs}); the others only by way of other models"
        if self.widest is None or self.needed is None:
            return f"{told}. Not all models are connected by judged pairs."
        told += (
            f". On {self.situations:,} situations a 95% interval between two models is at most "
            f"{self.widest:.2f} wide, of a range of 2; {self.width:g} needs {self.needed:,}"
        )
        return f"{told} situations" + (
            f", with all pairs {self.all_pairs:,}." if self.left_out else "."
        )


def design(
    kind: str, width: float, models: Sequence[str], judged: Sequence[tuple[str, str]], n: int
) -> Design:
    """What the pairs ``judged``, on ``n`` situations, can tell of all ``models``; ``kind`` and
    ``width`` are ``evaluation.pairs`` and ``evaluation.interval_width``."""
    every = list(combinations(models, 2))
    widths = _widths(models, judged, n)
    compared = {frozenset(pair) for pair in judged}
    left_out = []
    for a, b in every:
        if frozenset((a, b)) not in compared:
            apart = float(widths[models.index(a), models.index(b)])
            left_out.append(LeftOut(a, b, _finite(apart), _needed(apart, width, n)))
    widest = float(widths.max())
    return Design(
        pairs=kind,
        judged=len(every) - len(left_out),
        situations=n,
        width=width,
        widest=_finite(widest),
        needed=_needed(widest, width, n),
        all_pairs=_needed(float(_widths(models, every, n).max()), width, n) or 0,
        left_out=tuple(left_out),
    )


def _finite(width: float) -> float | None:
    return width if isfinite(width) else None


def _needed(apart: float, width: float, situations: int) -> int | None:
    """Situations for an interval of ``width`` where ``situations`` give one of ``apart``: widths
    shrink with the root of their number."""
    return ceil(round(situations * (apart / width) ** 2, 6)) if isfinite(apart) else None


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


def _widths(
    models: Sequence[str], pairs: Sequence[tuple[str, str]], situations: int
) -> NDArray[np.float64]:
    """The widths of the intervals between any two models; (models, models). Infinite where no way
    of judged pairs leads from one to the other."""
    laplacian = np.zeros((len(models), len(models)))
    for a, b in pairs:
        one, other = models.index(a), models.index(b)
        laplacian[[one, other], [one, other]] += 1
        laplacian[[one, other], [other, one]] -= 1
    _, part = connected_components(laplacian, directed=False)
    inverse = np.linalg.pinv(laplacian)
    own = np.diag(inverse)
    resistance = np.maximum(own[:, None] + own[None, :] - 2 * inverse, 0)
    z = float(stats.norm.ppf((1 + _CONFIDENCE) / 2))
    found: NDArray[np.float64] = 2 * z * np.sqrt(resistance / situations)
    return np.where(part[:, None] == part[None, :], found, np.inf)
