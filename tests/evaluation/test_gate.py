"""The gate of retraining."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sage_core.config.retrain import RetrainConfig
from sage_core.evaluation import gate
from sage_core.evaluation.winrate import PairSummary


def pair(wins_a: int, wins_b: int, judge: str = "m0", ties: int = 3) -> PairSummary:
    n = wins_a + wins_b + ties
    return PairSummary(
        judge, "champion", "challenger", n, wins_a, ties, wins_b, 0, None, None, None, None
    )


def decide(
    pairs: Sequence[PairSummary],
    number: int = 1,
    benchmarks: dict[str, tuple[float, float]] | None = None,
    collapsed: Sequence[str] = (),
) -> gate.Decision:
    return gate.decide(RetrainConfig(), number, pairs, "m0", benchmarks or {}, collapsed)


def test_all_rounds_together_spend_the_error_rate() -> None:
    shares = [gate.spent(0.05, number) for number in range(1, 100_000)]
    assert sum(shares) < 0.05
    assert sum(shares) == pytest.approx(0.05, rel=1e-4)
    assert shares == sorted(shares, reverse=True)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 60))
def test_it_passes_where_the_one_sided_sign_test_does(wins: int, losses: int, number: int) -> None:
    level = gate.spent(0.05, number)
    decision = decide([pair(losses, wins)], number)
    decided = wins + losses
    p = stats.binomtest(wins, decided, alternative="greater").pvalue if decided else 1.0
    assert decision.passed == (p < level)


@given(st.integers(1, 60))
def test_fewest_is_the_first_number_that_can_pass(number: int) -> None:
    fewest = gate.fewest(0.05, number)
    assert decide([pair(0, fewest, ties=0)], number).passed
    assert not decide([pair(0, fewest - 1, ties=0)], number).passed


def test_equal_models_are_promoted_no_more_often_than_promised() -> None:
    """Ten rounds of 16 situations between equal models: the exact probability of any promotion."""
    kept = 1.0
    for number in range(1, 11):
        passing = [k for k in range(17) if decide([pair(16 - k, k, ties=0)], number).passed]
        kept *= 1 - sum(math.comb(16, k) / 2**16 for k in passing)
    assert 0 < 1 - kept <= 0.05


def test_only_the_judge_that_counts_decides() -> None:
    pairs = [pair(10, 0, "other"), pair(0, 12)]
    decision = decide(pairs)
    assert decision.passed
    assert [check.passed for check in decision.checks[:2]] == [None, True]


def test_a_benchmark_that_fell_by_more_than_its_share_refuses() -> None:
    won = [pair(0, 12)]
    assert decide(won, benchmarks={"arc": (0.50, 0.491)}).passed
    decision = decide(won, benchmarks={"arc": (0.50, 0.489), "piqa": (0.6, 0.9)})
    assert decision.reasons == ["benchmark arc: -0.0110; needed: at least 0.4900"]


def test_every_collapse_gate_that_fired_is_a_reason() -> None:
    decision = decide([pair(0, 12)], collapsed=["distinct_2 = 0.01 < 0.05", "malformed = 0.5"])
    assert not decision.passed
    assert [reason.partition(";")[0] for reason in decision.reasons] == [
        "collapse gate: distinct_2 = 0.01 < 0.05",
        "collapse gate: malformed = 0.5",
    ]


def test_no_verdict_is_no_win() -> None:
    assert not decide([pair(0, 0, ties=0)]).passed
    assert not decide([pair(0, 0, ties=9)]).passed
    assert not decide([]).passed
