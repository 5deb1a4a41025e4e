"""``make judges-simulation``: judges with planted skill, position bias and length bias.

No model is loaded. Each simulated study is judged, and what the statistics find is compared with
what was planted: how often a 95% interval holds it. The baseline of the win rates is a percentile
bootstrap over items. The last rows are the power of soft verdicts beside the paper's rule, and the
time of a large table.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import product

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit

from benchmarks.harness import Benchmark, timed
from sage_core.evaluation.length_control import length_control
from sage_core.evaluation.outcomes import Items, Pair, by_pair
from sage_core.evaluation.ranking import rank, tanh_of_difference
from sage_core.evaluation.soft import soft_summaries
from sage_core.evaluation.styles import STYLES
from sage_core.evaluation.winrate import difference_interval, summarise
from sage_core.schema import Judgement, Order, Verdict

REPEATS = 1_000
CROSS_VALIDATED = 60  # studies at equal length: each is a cross-validation
LOW, HIGH = 0.93, 0.97
FEW = 30  # items below which an exact test, and so its interval, is conservative
ITEMS = (1, 2, 3, 5, 10, 30, 100, 1000)
SHARES = ((0.33, 0.34, 0.33), (0.25, 0.35, 0.40), (0.10, 0.30, 0.60))  # wins of a, ties, wins of b
MODELS = ("m0", "m1", "m2")
SKILL = {"m0": 0.0, "m1": 0.5, "m2": 0.9}
POSITION, LENGTH = 0.6, 0.8
SITUATIONS = 100
SHARED = 0.5  # of the situations, those whose verdicts all depend on one draw
BOOTSTRAP = 2_000
JUDGEMENTS = 100_000
MOST_S = 10.0


def win_rates(benchmark: Benchmark, rng: np.random.Generator) -> None:
    """Intervals of the difference of wins, from one item to many."""
    interval, bootstrap = cache(difference_interval), cache(_bootstrap)
    for n, shares in product(ITEMS, SHARES):
        truth = shares[2] - shares[0]
        ours, theirs = (
            np.mean([low - 1e-12 <= truth <= high + 1e-12 for low, high in map(each, drawn)])
            for each in (lambda c: interval(*c), lambda c: bootstrap(*c))
            for drawn in [[tuple(map(int, c)) for c in rng.multinomial(n, shares, REPEATS)]]
        )
        target = f"{LOW:.0%} to {HIGH:.0%}" if n > FEW else f"{LOW:.0%} at least"
        met = bool(ours >= LOW - _noise() and (n <= FEW or ours <= HIGH + _noise()))
        what = f"win rate, n = {n:,}, difference {truth:+.2f}"
        benchmark.add(what, f"{ours:.1%}", f"{theirs:.1%}", "-", target, met)


def planted(benchmark: Benchmark, rng: np.random.Generator) -> None:
    """Skill, position and length bias of one judge, by the scores at equal style."""
    found: dict[str, list[tuple[float, bool]]] = {}
    truth = {"skill of m1": SKILL["m1"], "skill of m2": SKILL["m2"], "position bias": POSITION,
             "length bias": LENGTH}  # fmt: skip
    for _ in range(REPEATS):
        verdicts, styles = _study(rng)
        (ranks,) = rank(verdicts, MODELS, styles=styles)
        scores = (ranks.models["m1"], ranks.models["m2"], ranks.first, ranks.styles[STYLES[0]])
        for (name, value), score in zip(truth.items(), scores, strict=True):
            held = score.ci_low <= value <= score.ci_high
            found.setdefault(name, []).append((score.value, held))
    for name, each in found.items():
        values, intervals = (np.array(column) for column in zip(*each, strict=True))
        what = f"{name}: planted {truth[name]:+.2f}, found {values.mean():+.2f}"
        _add(benchmark, what, intervals)


def length_controlled(
    benchmark: Benchmark, rng: np.random.Generator, repeats: int = CROSS_VALIDATED
) -> None:
    """The win rate at equal lengths of m1 against m0, of a judge that likes long replies."""
    truth = float((expit(SKILL["m1"] + POSITION) + expit(SKILL["m1"] - POSITION)) / 2)
    values, raw, held = [], [], []
    for _ in range(repeats):
        rows, styles = _judged(rng, SKILL["m1"], POSITION, LENGTH)
        (found,) = length_control(by_pair(rows), styles)
        assert found.controlled is not None
        assert found.ci_low is not None
        assert found.ci_high is not None
        values.append(found.controlled)
        raw.append(found.rate)
        held.append(found.ci_low <= truth <= found.ci_high)
    what = f"planted {truth:.2f}, found {np.mean(values):.2f}"
    _add(
        benchmark,
        f"rate at equal length ({repeats} studies): {what}",
        np.array(held),
        f"{np.mean(raw):.2f} as judged",
    )


def soft(benchmark: Benchmark, rng: np.random.Generator, repeats: int) -> None:
    """How often the paper's rule and soft verdicts find a difference, true or not."""
    for skill, position in product((0.0, 0.4), (0.0, 2.0)):
        hard_p, soft_p, held = [], [], []
        for _ in range(repeats):
            pairs = by_pair(_judged(rng, skill, position, 0.0)[0])
            (found,) = soft_summaries(pairs)
            hard_p.append(_paper(pairs))
            soft_p.append(1.0 if found.p_value is None else found.p_value)
            assert found.log_odds.ci_low is not None
            assert found.log_odds.ci_high is not None
            held.append(found.log_odds.ci_low <= skill <= found.log_odds.ci_high)
        name = f"skill {skill:+.1f}, position bias {position:.1f}"
        _add(benchmark, f"soft verdict, {name}: interval", np.array(held))
        hard, easy = (float(np.mean(np.array(p) < 0.05)) for p in (hard_p, soft_p))
        target = "no less than the paper's rule" if skill else "5% at most"
        met = easy >= hard if skill else easy <= 0.05 + 2 * _noise()
        benchmark.add(
            f"soft verdict, {name}: differences found", f"{easy:.1%}", f"{hard:.1%}",
            f"{easy / hard:.1f}" if hard else "-", target, bool(met),
        )  # fmt: skip


def speed(benchmark: Benchmark) -> None:
    """A table of many judgements, against a bootstrap of its items."""
    rng = np.random.default_rng(0)
    verdicts: tuple[Verdict, ...] = ("model_a", "model_b", "tie")
    drawn = rng.integers(0, 3, JUDGEMENTS)
    rows = [
        Judgement(str(number // 2), "j", "m0", "m1", "ba" if number % 2 else "ab", verdicts[v], "")
        for number, v in enumerate(drawn)
    ]
    seconds, (summary,) = timed(summarise, rows)
    items = np.repeat([-1, 0, 1], (summary.wins_a, summary.ties, summary.wins_b))
    baseline, _ = timed(_by_items, items)
    benchmark.add(
        f"{JUDGEMENTS:,} judgements summarised", f"{seconds:.2f} s",
        f"{baseline:.1f} s, the bootstrap alone", f"{baseline / seconds:.0f}x",
        f"under {MOST_S:.0f} s", seconds < MOST_S,
    )  # fmt: skip


def _add(benchmark: Benchmark, what: str, held: NDArray[np.bool_], baseline: str = "-") -> None:
    """A row of how often intervals held what was planted."""
    share, noise = float(held.mean()), 2 * np.sqrt(0.05 * 0.95 / len(held))
    met = LOW - noise <= share <= HIGH + noise
    benchmark.add(what, f"{share:.1%}", baseline, "-", f"{LOW:.0%} to {HIGH:.0%}", bool(met))


def _noise() -> float:
    """The standard error of a share of 5% in as many repeats."""
    return float(np.sqrt(0.05 * 0.95 / REPEATS))


def _bootstrap(wins_a: int, ties: int, wins_b: int) -> tuple[float, float]:
    found = _resampled((wins_a, ties, wins_b), BOOTSTRAP, np.random.default_rng(0))
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def _resampled(
    counts: tuple[int, int, int], samples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Differences of resampled items, whose counts are multinomial."""
    n = sum(counts)
    drawn = rng.multinomial(n, np.array(counts) / n, samples)
    return np.asarray((drawn[:, 2] - drawn[:, 0]) / n)


def _by_items(items: NDArray[np.int_]) -> object:
    """A bootstrap that draws each item, in parts that fit memory."""
    return stats.bootstrap(
        (items,), np.mean, n_resamples=10_000, batch=20, method="percentile", rng=0
    ).confidence_interval


def _study(rng: np.random.Generator) -> tuple[pd.DataFrame, dict[str, dict[str, dict[str, float]]]]:
    """The verdicts of two pairs of models, and the styles of their conversations.

    Verdicts about a situation depend on each other: in some, all come from one draw.
    """
    characters = {
        model: rng.normal(300 + 60 * number, 100, SITUATIONS).round()
        for number, model in enumerate(MODELS)
    }
    pairs = [("m0", "m1"), ("m1", "m2")]
    longer = tanh_of_difference(np.concatenate([characters[b] - characters[a] for a, b in pairs]))
    shared = rng.random(SITUATIONS) < SHARED
    common = rng.random(SITUATIONS)
    parts = []
    for number, (a, b) in enumerate(pairs):
        length = longer[number * SITUATIONS : (number + 1) * SITUATIONS]
        for first in (-1.0, 1.0):
            odds = SKILL[b] - SKILL[a] + POSITION * first + LENGTH * length
            drawn = np.where(shared, common, rng.random(SITUATIONS))
            parts.append(
                pd.DataFrame(
                    {"judge": "j", "item": [str(item) for item in range(SITUATIONS)], "a": a,
                     "b": b, "first": first, "preferred": (drawn < expit(odds)).astype(float)}
                )
            )  # fmt: skip
    # The standardised difference is over both orders, as in the table.
    nothing = dict.fromkeys(STYLES[1:], 0.0)
    styles = {
        model: {str(item): {STYLES[0]: float(each), **nothing} for item, each in enumerate(lengths)}
        for model, lengths in characters.items()
    }
    return pd.concat(parts, ignore_index=True), styles


def _judged(
    rng: np.random.Generator, skill: float, position: float, length: float
) -> tuple[list[Judgement], dict[str, dict[str, dict[str, float]]]]:
    """One pair's judgements with their log-odds, which differ between situations where lengths do
    not matter; and the lengths of its conversations."""
    lengths = {name: rng.normal(mean, 100, SITUATIONS) for name, mean in (("m0", 300), ("m1", 360))}
    odds = skill + length * tanh_of_difference(lengths["m1"] - lengths["m0"])
    if not length:
        odds = odds + rng.normal(0, 1, SITUATIONS)
    rows = list(_showings(rng, odds, position))
    styles = {
        model: {str(item): {STYLES[0]: float(each)} for item, each in enumerate(found)}
        for model, found in lengths.items()
    }
    return rows, styles


def _showings(
    rng: np.random.Generator, odds: NDArray[np.float64], position: float
) -> Iterator[Judgement]:
    orders: tuple[tuple[Order, float], ...] = (("ab", -position), ("ba", position))
    for item, each in enumerate(odds):
        for order, shift in orders:
            verdict: Verdict = "model_b" if rng.random() < expit(each + shift) else "model_a"
            shown = float(each + shift)
            yield Judgement(str(item), "j", "m0", "m1", order, verdict, "", log_odds=shown)


def _paper(pairs: Mapping[Pair, Items]) -> float:
    """The p-value of the paper's rule."""
    (items,) = pairs.values()
    verdicts = [{row.verdict for row in shown.values()} for shown in items.values()]
    a, b = (verdicts.count({each}) for each in ("model_a", "model_b"))
    return float(stats.binomtest(a, a + b).pvalue) if a + b else 1.0


def main(repeats: int = REPEATS) -> None:
    """Simulate, print the table and write it to benchmarks/results."""
    benchmark = Benchmark(
        "judges-simulation",
        note=f"Shares of {repeats:,} (unless said) simulated studies of {SITUATIONS} situations "
        f"(win rates: n items, {REPEATS:,} studies) in which a 95% interval holds what was "
        f"planted. Below {FEW} items the exact sign test is conservative, and so is the interval "
        "that agrees with it. A share of 95% has a standard error of 0.7 points; targets allow for "
        "two. The baseline of win rates is the percentile bootstrap, that of soft verdicts the "
        "paper's rule.",
    )
    parts: tuple[Callable[[], None], ...] = (
        lambda: win_rates(benchmark, np.random.default_rng(1)),
        lambda: planted(benchmark, np.random.default_rng(2)),
        lambda: length_controlled(benchmark, np.random.default_rng(3)),
        lambda: soft(benchmark, np.random.default_rng(4), repeats),
        lambda: speed(benchmark),
    )
    for part in parts:
        part()
    benchmark.finish()


if __name__ == "__main__":
    typer.run(main)
