"""Win rates from pairwise judgements: counts, significance and effect size of each pair.

An item is judged twice, with either model shown first (paper, section on evaluation). Three
things depart from the paper and its release:

* An order that is missing or was not parsed takes its item out of ``n`` and into ``unparsed``;
  the release counted such verdicts as agreement.
* Orders that disagree are a tie, as the paper says; the release dropped them.
* Significance is computed and corrected for the number of pairs. The paper's Table 1 stars 823
  wins against 869, whose exact two-sided sign test gives p = 0.27.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError
from scipy import optimize, special, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from sage_core.errors import DataError
from sage_core.evaluation.metrics import Rate
from sage_core.evaluation.outcomes import Items, Pair, by_pair, lacking, outcome
from sage_core.schema import Judgement, Verdict
from sage_core.storage import first_problem, read_rows

SIGNIFICANCE = 0.05
TOLD_APART = 0.05  # of the items: the difference that `situations_needed` is for
POWER = 0.8
_PARQUET_MAGIC = b"PAR1"  # the first four bytes of every Parquet file
_LINE = TypeAdapter(Judgement)
_NAMED = 5  # items without an order that a summary names
# Gauss and Legendre's rule for the mean over the quantiles of a distribution.
_NODES, _WEIGHTS = (each / 2 for each in np.polynomial.legendre.leggauss(64))
_QUANTILES = _NODES + 0.5


@dataclass(frozen=True)
class PairSummary:
    """What one judge says about one pair of models.

    Attributes:
        n: items whose two orders were both parsed; ``wins_a + ties + wins_b``.
        wins_a, wins_b: items for which both orders named that model.
        ties: all other items of ``n``: the orders disagree, or one of them said tie.
        unparsed: items that do not count, since an order was not parsed or is missing. Items,
            not verdicts, so that ``n + unparsed`` is the number of items seen.
        p_value: two-sided exact sign test of ``wins_a`` against ``wins_b``, ties left out; 1.0
            where there are ties only, None at ``n = 0``.
        p_holm: ``p_value`` corrected for all pairs of the same judge (Holm, 1979).
        ci_low, ci_high: 95% interval of ``(wins_b - wins_a) / n``, in [-1, 1], positive where
            ``model_b`` wins more; None at ``n = 0``. It is on one side of zero exactly where
            ``p_value`` is below 0.05.
        missing: items of ``unparsed`` of which one order is not there at all.
        lacking: the first of these, each as "ITEM lacks ORDER".
        p_fdr: ``p_value`` corrected for all pairs of all judges by their false-discovery rate
            (Benjamini and Hochberg, 1995).
    """

    judge: str
    model_a: str
    model_b: str
    n: int
    wins_a: int
    ties: int
    wins_b: int
    unparsed: int
    p_value: float | None
    p_holm: float | None
    ci_low: float | None
    ci_high: float | None
    missing: int = 0
    lacking: tuple[str, ...] = ()
    p_fdr: float | None = None


def summarise(judgements: Iterable[Judgement]) -> list[PairSummary]:
    """Summarise each (judge, model_a, model_b), in order of first appearance; (a, b) and (b, a) are
    one pair.

    Raises:
        DataError: an item was judged twice in the same order, or a model against itself.
    """
    found = [_summary(pair, items) for pair, items in by_pair(judgements).items()]
    holm: dict[int, float] = {}
    for judge in {each.judge for each in found}:
        of_judge = [number for number, each in enumerate(found) if each.judge == judge]
        holm |= _holm(_tested(found, of_judge))
    tested = _tested(found, range(len(found)))
    rates = stats.false_discovery_control(list(tested.values())) if tested else ()
    fdr = dict(zip(tested, map(float, rates), strict=True))
    return [
        replace(each, p_holm=holm.get(number), p_fdr=fdr.get(number))
        for number, each in enumerate(found)
    ]


def improves(summaries: Sequence[PairSummary]) -> bool:
    """Whether a judge prefers ``model_b`` beyond chance: Holm's p over all ``summaries``, such as
    one pair by several judges, is below 0.05 and ``model_b`` wins more.

    The rounds of refinement ask this of each new model, and stop at the first no. Such a sequence
    needs no further correction: a round is only tested after all before it were significant
    (fixed-sequence testing, Maurer, Hothorn and Lehmacher, 1995).
    """
    corrected = _holm(_tested(summaries, range(len(summaries))))
    return any(
        p < SIGNIFICANCE and summaries[number].wins_b > summaries[number].wins_a
        for number, p in corrected.items()
    )


def verdict(summary: PairSummary) -> str:
    """A pair's result in words, by its p-values alone; the interval agrees by its construction."""
    if summary.p_value is None or summary.p_holm is None:
        return "nothing to compare"
    if summary.p_value >= SIGNIFICANCE:
        return "no difference shown"
    better = summary.model_b if summary.wins_b > summary.wins_a else summary.model_a
    alone = summary.p_holm >= SIGNIFICANCE
    return f"{better} ahead, but not among all pairs" if alone else f"{better} better"


def situations_needed(summaries: Iterable[PairSummary]) -> dict[str, int | None]:
    """Per judge, the situations for a difference of 5% of the items to be told from none with 80%
    power, at its share of ties over all pairs; None where it decided no item.

    A paired test of mean item outcomes (-1, 0, 1), which the sign test comes close to (statsmodels'
    ``TTestPower``).
    """
    counts: dict[str, tuple[int, int]] = {}
    for each in summaries:
        decided, n = counts.get(each.judge, (0, 0))
        counts[each.judge] = (decided + each.wins_a + each.wins_b, n + each.n)
    return {judge: _needed(*count) for judge, count in counts.items()}


def position_bias(judgements: Iterable[Judgement]) -> dict[str, Rate]:
    """Per judge, the share of decided verdicts that named the model shown first.

    One half is unbiased: each item is shown in both orders. Ties and unparsed verdicts name no
    model and are left out. Order ``ab`` shows ``model_a`` first, ``ba`` ``model_b``.
    """
    first: Counter[str] = Counter()
    totals: dict[str, int] = {}
    for row in judgements:
        decided = row.verdict in ("model_a", "model_b")
        totals[row.judge] = totals.get(row.judge, 0) + decided
        first[row.judge] += row.verdict == ("model_a" if row.order == "ab" else "model_b")
    return {judge: Rate.of(first[judge], total) for judge, total in totals.items()}


def read_judgements(path: Path) -> list[Judgement]:
    """Read a Parquet file, a folder of Parquet shards, or JSON lines (told by the content).

    Raises:
        DataError: missing, unreadable, or a row that is no judgement.
    """
    try:
        if path.is_dir():
            return read_rows(path, Judgement)
        with path.open("rb") as stream:
            parquet = stream.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
        return read_rows(path, Judgement) if parquet else _read_json_lines(path)
    except FileNotFoundError:
        raise DataError(f"'{path}' does not exist; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"'{path}' cannot be read as judgements: {error}; give a Parquet file, a folder of "
            "them, or JSON lines in UTF-8"
        ) from None


def _read_json_lines(path: Path) -> list[Judgement]:
    rows = []
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                rows.append(_LINE.validate_json(line))
            except ValidationError as error:
                raise DataError(f"'{path}', line {number}: {first_problem(error)}") from None
    return rows


def difference_interval(wins_a: int, ties: int, wins_b: int) -> tuple[float, float]:
    """The 95% interval of (wins_b - wins_a) / n; n is 1 at least."""
    return _lowest(wins_a, ties, wins_b), -_lowest(wins_b, ties, wins_a) + 0.0  # no negative zero


def _summary(pair: Pair, items: Items) -> PairSummary:
    """A pair's summary, not corrected for others."""
    count: Counter[Verdict] = Counter(map(outcome, items.values()))
    a, ties, b = count["model_a"], count["tie"], count["model_b"]
    low, high = difference_interval(a, ties, b) if a + ties + b else (None, None)
    without = lacking(items)
    named = tuple(f"{item} lacks {order}" for item, order in islice(without, _NAMED))
    return PairSummary(
        *pair,
        n=a + ties + b,
        wins_a=a,
        ties=ties,
        wins_b=b,
        unparsed=count["unparsed"],
        p_value=_sign_test(a, b) if a + ties + b else None,
        p_holm=None,
        ci_low=low,
        ci_high=high,
        missing=len(named) + sum(1 for _ in without),
        lacking=named,
    )


def _needed(decided: int, n: int) -> int | None:
    if not decided:
        return None
    effect = TOLD_APART / np.sqrt(decided / n)  # by the standard deviation without a difference
    needed = TTestPower().solve_power(effect_size=effect, power=POWER, alpha=SIGNIFICANCE)
    return int(np.ceil(needed))


def _tested(summaries: Sequence[PairSummary], numbers: Iterable[int]) -> dict[int, float]:
    """The p-values of the summaries of those numbers; none at ``n = 0``."""
    return {n: p for n in numbers if (p := summaries[n].p_value) is not None}


def _holm(p_values: Mapping[int, float]) -> dict[int, float]:
    """The p-values corrected for each other."""
    if len(p_values) < 2:  # statsmodels collects all garbage at each call, which takes long
        return dict(p_values)
    adjusted = multipletests(list(p_values.values()), method="holm")[1]
    return dict(zip(p_values, map(float, adjusted), strict=True))


def _sign_test(wins_a: int, wins_b: int) -> float:
    decided = wins_a + wins_b
    if decided == 0:
        return 1.0
    return float(stats.binomtest(min(wins_a, wins_b), n=decided, p=0.5).pvalue)


def _lowest(wins_a: int, ties: int, wins_b: int) -> float:
    """The lower end of the interval of (wins_b - wins_a) / n.

    The difference is the share of decided items times (2 s - 1), with s the share of these that
    ``model_b`` wins. For s this takes the distribution whose quantile is Clopper and Pearson's
    lower limit, Beta(wins_b, wins_a + 1), and for the share of decided items Jeffreys',
    Beta(decided + 1/2, ties + 1/2). The end is the 2.5% quantile of the product of the two, and no
    further in than the difference found (Brown, Cai and DasGupta, 2001, extend Jeffreys' interval
    so). The product is below zero exactly where s is below one half, so the end is above zero
    exactly where Clopper and Pearson's limit is above one half: where the sign test's p is below
    0.05.
    """
    tail = SIGNIFICANCE / 2
    decided = wins_a + wins_b
    found = (wins_b - wins_a) / (decided + ties)
    if wins_b == 0:  # Clopper and Pearson's limit is 0
        return min(found, -float(special.betaincinv(decided + 0.5, ties + 0.5, 1 - tail)))
    shares = special.betaincinv(decided + 0.5, ties + 0.5, _QUANTILES)

    def below(difference: float) -> float:
        """How probable a smaller difference is, less the tail's probability."""
        half = np.clip((1 + difference / shares) / 2, 0, 1)
        return float(_WEIGHTS @ special.betainc(wins_b, wins_a + 1, half)) - tail

    return min(found, float(optimize.brentq(below, -1, 1))) + 0.0
