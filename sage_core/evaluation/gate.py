"""The gate of retraining: whether a challenger takes the champion's place.

A challenger passes if the judge that counts prefers it beyond chance, no benchmark fell by more
than a set share, and no collapse gate fired. Many rounds mean many tests, so the error rate is
spent over time: round ``k`` tests at ``6 alpha / (pi^2 k^2)``, and since the sum of ``1 / k^2`` is
``pi^2 / 6``, all rounds that will ever be run spend ``alpha`` together (alpha-spending for an
unknown number of tests; Foster and Stine, 2008, use the same series). The bound needs situations
that no earlier round has used.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

from sage_core.config.retrain import RetrainConfig
from sage_core.evaluation.winrate import PairSummary


@dataclass(frozen=True)
class Check:
    """One row of the decision table.

    Attributes:
        champion, challenger: what was compared, as shown.
        value: what was found.
        needed: what passes.
        passed: None for what is shown only.
    """

    check: str
    champion: str
    challenger: str
    value: str
    needed: str
    passed: bool | None


@dataclass(frozen=True)
class Decision:
    """What the gate decided, with every input.

    Attributes:
        round: the number of the decision, from 1.
        error_rate: what this round spent of the error rate.
    """

    round: int
    error_rate: float
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed is not False for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """Why not, in words."""
        return [
            f"{check.check}: {check.value}; needed: {check.needed}"
            for check in self.checks
            if check.passed is False
        ]


def spent(error_rate: float, number: int) -> float:
    """What round ``number``, from 1, spends of the error rate of all rounds."""
    return error_rate * 6 / (math.pi**2 * number**2)


def fewest(error_rate: float, number: int) -> int:
    """The fewest situations with which round ``number`` could pass: all of them won."""
    return math.ceil(math.log2(1 / spent(error_rate, number)))


def preference(wins: int, losses: int, error_rate: float) -> tuple[float, float]:
    """The exact interval (Clopper and Pearson, 1934) of (wins - losses) / (wins + losses), whose
    lower end is above the true value with probability ``error_rate`` at most, and whose upper end
    is below it likewise. Ties are left out, as in the sign test: the lower end is above zero where
    the one-sided test has p below ``error_rate``."""
    if wins + losses == 0:
        return -1.0, 1.0
    interval = stats.binomtest(wins, wins + losses).proportion_ci(
        confidence_level=1 - 2 * error_rate, method="exact"
    )
    return 2 * float(interval.low) - 1, 2 * float(interval.high) - 1


def decide(
    settings: RetrainConfig,
    number: int,
    pairs: Sequence[PairSummary],
    judge: str,
    benchmarks: Mapping[str, tuple[float, float]],
    collapsed: Iterable[str],
) -> Decision:
    """Decide on one challenger.

    Args:
        number: the number of the decision, from 1.
        pairs: of each judge, the champion as ``model_a`` against the challenger as ``model_b``.
        judge: the name of the judge that counts.
        benchmarks: the champion's and the challenger's score, higher is better, of each benchmark
            that both have; empty where none was run.
        collapsed: the collapse gates that the challenger did not pass.
    """
    level = spent(settings.error_rate, number)
    checks = [_win_rate(pair, level, counts=pair.judge == judge) for pair in pairs]
    if judge not in {pair.judge for pair in pairs}:
        checks.append(Check(f"win rate, judge {judge}", "-", "-", "no verdict", "verdicts", False))
    checks += [
        _benchmark(name, *scores, settings.max_benchmark_drop)
        for name, scores in sorted(benchmarks.items())
    ]
    if not benchmarks:
        checks.append(Check("benchmarks", "-", "-", "none was run for both", "-", None))
    failed = list(collapsed)
    checks += [Check("collapse gate", "-", "-", gate, "inside its limit", False) for gate in failed]
    if not failed:
        checks.append(Check("collapse gates", "-", "-", "none fired", "none fires", True))
    return Decision(number, level, tuple(checks))


def _win_rate(pair: PairSummary, level: float, *, counts: bool) -> Check:
    low, high = preference(pair.wins_b, pair.wins_a, level)
    return Check(
        check=f"win rate, judge {pair.judge}",
        champion=f"{pair.wins_a} wins",
        challenger=f"{pair.wins_b} wins",
        value=f"interval [{low:+.2f}, {high:+.2f}], {pair.ties} ties, n = {pair.n}, "
        f"{pair.unparsed} unparsed",
        needed=f"interval above 0 at error rate {level:.4f}",
        passed=low > 0 if counts else None,
    )


def _benchmark(name: str, champion: float, challenger: float, drop: float) -> Check:
    return Check(
        check=f"benchmark {name}",
        champion=f"{champion:.4f}",
        challenger=f"{challenger:.4f}",
        value=f"{challenger - champion:+.4f}",
        needed=f"at least {champion * (1 - drop):.4f}",
        passed=challenger >= champion * (1 - drop),
    )
