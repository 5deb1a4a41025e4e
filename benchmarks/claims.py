"""What `make prove` claims of its models, and when a claim holds.

Every claim is on a mean difference between two models, over seeds and situations. Both are samples:
other seeds would have drawn and trained otherwise, other situations would have answered otherwise.
A difference d of seed s on situation i is taken as::

    d[s, i] = effect + seed[s] + situation[i] + rest[s, i]

with all three random and crossed, since all seeds meet the same situations. The interval is the
quasi-F of two random factors (Clark 1973, "The language-as-fixed-effect fallacy", there of subjects
and words; degrees of freedom after Satterthwaite 1946). It counts ``rest`` twice, so it errs on the
wide side. A bootstrap over a handful of seeds would err on the narrow one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.preference import Part

CONFIDENCE = 0.95
# Two one-sided tests at 5% each (Schuirmann 1987): the 90% interval within the margin.
EQUIVALENCE_CONFIDENCE = 0.90
MARGIN = 1 / 2  # of m2's move: how far chance may move a model

Scores = NDArray[np.float64]
"""Of one model: preference in nats; (seeds, situations)."""
Models = Mapping[str, Mapping[Part, Scores]]
"""m1, m2, m3, dpo, "dpo swapped", "m2 turned around" and "m2 at random"."""


class Estimate(NamedTuple):
    """A mean difference in nats, with its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


class Noise(NamedTuple):
    """Standard deviations of a difference, in nats: between situations (the same in all seeds),
    between seeds (the same in all situations), and of the rest."""

    situation: float
    seed: float
    rest: float

    def __str__(self) -> str:
        return f"{self.situation:.2f}, {self.seed:.2f} and {self.rest:.2f}"


@dataclass(frozen=True)
class Claim:
    """Something that the proof says of two models, and whether it holds.

    ``margin``: of an equivalence, in nats; 0 for a claim that one model is above the other.
    """

    what: str
    part: Part
    after: str
    before: str
    difference: Estimate
    target: str
    met: bool
    margin: float = 0.0


def estimate(differences: Scores, confidence: float = CONFIDENCE) -> Estimate:
    """The mean over seeds and situations, with its interval; see the module's text.

    Args:
        differences: (seeds, situations), at least two of each.
        confidence: two-sided.
    """
    seeds, situations = differences.shape
    mean = float(differences.mean())
    # Mean squares, each with the expected value of the rest's variance in it.
    by_seed = situations * float(differences.mean(axis=1).var(ddof=1))
    by_situation = seeds * float(differences.mean(axis=0).var(ddof=1))
    total = by_seed + by_situation
    if total == 0:
        return Estimate(mean, mean, mean)
    freedom = total**2 / (by_seed**2 / (seeds - 1) + by_situation**2 / (situations - 1))
    reach = float(stats.t.ppf((1 + confidence) / 2, freedom)) * (total / differences.size) ** 0.5
    return Estimate(mean, mean - reach, mean + reach)


def noise(differences: Scores) -> Noise:
    """What varies, by the mean squares of a two-way table (negative estimates are 0)."""
    seeds, situations = differences.shape
    by_seed = differences.mean(axis=1, keepdims=True)
    by_situation = differences.mean(axis=0, keepdims=True)
    left = differences - by_seed - by_situation + differences.mean()
    rest = float((left**2).sum()) / ((seeds - 1) * (situations - 1))
    return Noise(
        situation=max(0.0, float(by_situation.var(ddof=1)) - rest / seeds) ** 0.5,
        seed=max(0.0, float(by_seed.var(ddof=1)) - rest / situations) ** 0.5,
        rest=rest**0.5,
    )


def claims(models: Models) -> list[Claim]:
    """All claims, each with whether it holds."""
    return [
        _above(models, "m2 over m1", "m2", "m1"),
        _above(models, "m3 over m2: the second round adds", "m3", "m2"),
        _above(models, "dpo over m3: preference learning adds", "dpo", "m3"),
        _below(models, "dpo with its pairs swapped, below m3", "dpo swapped", "m3"),
        _below(models, "m2 with the selector turned around, below m1", "m2 turned around", "m1"),
        _alike(models, "m2 selected at random, like m1", "m2 at random", "m1", moved="m2"),
        _above(models, "m3 over m1, in the words alone", "m3", "m1", Part.words),
        _above(models, "m3 over m1, in a_motivation alone", "m3", "m1", Part.action),
    ]


def _above(models: Models, what: str, after: str, before: str, part: Part = Part.reply) -> Claim:
    found = estimate(models[after][part] - models[before][part])
    return Claim(what, part, after, before, found, "interval above 0", found.low > 0)


def _below(models: Models, what: str, after: str, before: str, part: Part = Part.reply) -> Claim:
    found = estimate(models[after][part] - models[before][part])
    return Claim(what, part, after, before, found, "interval below 0", found.high < 0)


def _alike(models: Models, what: str, after: str, before: str, *, moved: str) -> Claim:
    """Equivalence within a share of another model's move. That move is an estimate too, so the test
    is on the contrasts ``share * move ± difference``: both intervals have to be above 0."""
    part = Part.reply
    difference = models[after][part] - models[before][part]
    margin = MARGIN * (models[moved][part] - models[before][part])
    met = all(
        estimate(margin + sign * difference, EQUIVALENCE_CONFIDENCE).low > 0 for sign in (-1, 1)
    )
    most = max(0.0, float(margin.mean()))
    return Claim(
        what,
        part,
        after,
        before,
        estimate(difference, EQUIVALENCE_CONFIDENCE),
        f"90% interval within ±{most:.2f}, {MARGIN:.0%} of {moved}'s move, both as estimated",
        met,
        most,
    )
