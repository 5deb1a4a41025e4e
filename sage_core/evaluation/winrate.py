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
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError
from scipy import stats
from statsmodels.stats.multitest import multipletests

from sage_core.errors import DataError
from sage_core.evaluation.metrics import CONFIDENCE, Rate
from sage_core.schema import Judgement, Order, Verdict
from sage_core.storage import first_problem, read_rows

SIGNIFICANCE = 0.05
_PARQUET_MAGIC = b"PAR1"  # the first four bytes of every Parquet file
_LINE = TypeAdapter(Judgement)
_BOOTSTRAP_CELLS = 1_000_000  # items times resamples drawn at once: 8 MB


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
            ``model_b`` wins more; None at ``n = 0``.
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


def summarise(
    judgements: Iterable[Judgement], *, bootstrap_samples: int = 10_000, seed: int = 0
) -> list[PairSummary]:
    """Summarise each (judge, model_a, model_b), in order of first appearance.

    Raises:
        DataError: an item was judged twice in the same order.
    """
    pairs: dict[tuple[str, str, str], dict[str, dict[Order, Verdict]]] = {}
    for row in judgements:
        items = pairs.setdefault((row.judge, row.model_a, row.model_b), {})
        verdicts = items.setdefault(row.item_id, {})
        if row.order in verdicts:
            raise DataError(
                f"item '{row.item_id}' has more than one judgement in order '{row.order}' of "
                f"'{row.model_a}' against '{row.model_b}' by judge '{row.judge}'; each item has "
                "one row per order ('ab', 'ba'): remove the others"
            )
        verdicts[row.order] = row.verdict

    counts = {
        pair: Counter(_outcome(verdicts) for verdicts in items.values())
        for pair, items in pairs.items()
    }
    p_values = {pair: _sign_test(count) for pair, count in counts.items()}
    corrected: dict[tuple[str, str, str], float] = {}
    for judge in {judge for judge, _, _ in pairs}:
        tested = [(pair, p) for pair, p in p_values.items() if pair[0] == judge and p is not None]
        if tested:
            adjusted = multipletests([p for _, p in tested], method="holm")[1]
            corrected.update(
                (pair, float(p)) for (pair, _), p in zip(tested, adjusted, strict=True)
            )

    summaries = []
    for pair, count in counts.items():
        low, high = _interval(count, bootstrap_samples, seed)
        summaries.append(
            PairSummary(
                *pair,
                n=_n(count),
                wins_a=count["model_a"],
                ties=count["tie"],
                wins_b=count["model_b"],
                unparsed=count["unparsed"],
                p_value=p_values[pair],
                p_holm=corrected.get(pair),
                ci_low=low,
                ci_high=high,
            )
        )
    return summaries


def improves(summaries: Iterable[PairSummary]) -> bool:
    """Whether any judge's interval lies above zero: ``model_b`` wins more, beyond chance."""
    return any(summary.ci_low is not None and summary.ci_low > 0 for summary in summaries)


def verdict(summary: PairSummary) -> str:
    """A pair's result in words: a difference counts where Holm's p is below ``SIGNIFICANCE``."""
    if summary.p_holm is None:
        return "nothing to compare"
    if summary.p_holm >= SIGNIFICANCE:
        return "no difference shown"
    better = summary.model_b if summary.wins_b > summary.wins_a else summary.model_a
    return f"{better} better"


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


def _outcome(verdicts: dict[Order, Verdict]) -> Verdict:
    """What the two orders of one item come to."""
    if set(verdicts) != {"ab", "ba"} or "unparsed" in verdicts.values():
        return "unparsed"
    return verdicts["ab"] if verdicts["ab"] == verdicts["ba"] else "tie"


def _n(count: Counter[Verdict]) -> int:
    return count["model_a"] + count["tie"] + count["model_b"]


def _sign_test(count: Counter[Verdict]) -> float | None:
    if _n(count) == 0:
        return None
    decided = count["model_a"] + count["model_b"]
    if decided == 0:
        return 1.0
    fewer = min(count["model_a"], count["model_b"])
    return float(stats.binomtest(fewer, n=decided, p=0.5).pvalue)


def _interval(
    count: Counter[Verdict], samples: int, seed: int
) -> tuple[float | None, float | None]:
    """Percentile bootstrap interval of (wins_b - wins_a) / n, resampling whole items.

    An item is worth -1, 0 or +1. The generator is fresh for every pair, so a pair's interval does
    not depend on which others are in the file; and the wins of the model with fewer of them come
    first, so that swapping the models mirrors the interval.
    """
    n = _n(count)
    if n == 0:
        return None, None
    a, ties, b = count["model_a"], count["tie"], count["model_b"]
    sign = 1 if b >= a else -1
    if n in (a, ties, b):  # items all alike; one item alone is refused by SciPy
        point = (b - a) / n
        return point, point
    interval = stats.bootstrap(
        (np.repeat([-1, 0, 1], [min(a, b), ties, max(a, b)]),),
        np.mean,
        n_resamples=samples,
        batch=max(1, _BOOTSTRAP_CELLS // n),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=seed,
    ).confidence_interval
    low, high = sorted((sign * float(interval.low), sign * float(interval.high)))
    return low + 0.0, high + 0.0  # no negative zero
