"""Win rates: every expected number is derived by hand beside it."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sage_core.errors import DataError
from sage_core.evaluation.winrate import (
    PairSummary,
    position_bias,
    read_judgements,
    summarise,
)
from sage_core.schema import Judgement, Order, Verdict
from sage_core.storage import write_rows

VERDICTS: tuple[Verdict, ...] = ("model_a", "model_b", "tie", "unparsed")
SWAPPED: dict[Verdict, Verdict] = {"model_a": "model_b", "model_b": "model_a"}


def judged(
    item: str,
    order: Order,
    verdict: Verdict,
    *,
    judge: str = "j",
    pair: tuple[str, str] = ("A", "B"),
) -> Judgement:
    return Judgement(item, judge, *pair, order, verdict, raw="")


def both(
    item: str, ab: Verdict, ba: Verdict, *, judge: str = "j", pair: tuple[str, str] = ("A", "B")
) -> list[Judgement]:
    return [
        judged(item, "ab", ab, judge=judge, pair=pair),
        judged(item, "ba", ba, judge=judge, pair=pair),
    ]


def outcome(
    wins_a: int, ties: int, wins_b: int, *, judge: str = "j", pair: tuple[str, str] = ("A", "B")
) -> list[Judgement]:
    """Rows of a pair whose items end so."""
    numbers: Iterator[int] = count()
    rows: list[Judgement] = []
    for times, verdict in ((wins_a, "model_a"), (ties, "tie"), (wins_b, "model_b")):
        for _ in range(times):
            rows += both(str(next(numbers)), verdict, verdict, judge=judge, pair=pair)  # type: ignore[arg-type]
    return rows


def only(rows: list[Judgement], **settings: int) -> PairSummary:
    (summary,) = summarise(rows, **settings)
    return summary


def test_the_papers_starred_row_is_not_significant() -> None:
    # Table 1: 823 wins against 869 of 2,544 items, so 852 ties. Under the null hypothesis the
    # wins of one side have mean 846 and standard deviation sqrt(1692) / 2 = 20.57; with the
    # continuity correction z = 22.5 / 20.57 = 1.094, and 2 * (1 - Phi(1.094)) = 0.274.
    summary = only(outcome(823, 852, 869))
    assert summary.n == 2544
    assert summary.p_value == pytest.approx(0.27, abs=0.005)
    # The difference is 46 / 2544 = 0.0181. One item has variance 1692/2544 - 0.0181^2 = 0.6648,
    # so the standard error is sqrt(0.6648 / 2544) = 0.01617 and 1.96 of them are 0.0317.
    assert summary.ci_low == pytest.approx(0.0181 - 0.0317, abs=0.002)
    assert summary.ci_high == pytest.approx(0.0181 + 0.0317, abs=0.002)


def test_what_each_item_comes_to() -> None:
    rows = [
        *both("win a", "model_a", "model_a"),
        *both("win b", "model_b", "model_b"),
        *both("another win b", "model_b", "model_b"),
        *both("orders disagree", "model_a", "model_b"),
        *both("one order ties", "model_a", "tie"),
        *both("both tie", "tie", "tie"),
        *both("one unparsed", "model_a", "unparsed"),
        *both("both unparsed", "unparsed", "unparsed"),
        judged("one order missing", "ab", "model_a"),
    ]
    summary = only(rows)
    assert (summary.wins_a, summary.ties, summary.wins_b) == (1, 3, 2)
    assert (summary.n, summary.unparsed) == (6, 3)
    # Two of three or more extreme, two-sided, with a fair coin: every outcome but none, so 1.
    assert summary.p_value == 1.0


def test_sign_test_by_hand() -> None:
    # 0 of 6, two-sided: 2 * (1/2)^6 = 1/32. The ties do not matter.
    assert only(outcome(0, 5, 6)).p_value == pytest.approx(1 / 32)


def test_ties_only() -> None:
    summary = only(outcome(0, 4, 0))
    assert (summary.p_value, summary.p_holm) == (1.0, 1.0)
    assert (summary.ci_low, summary.ci_high) == (0.0, 0.0)


def test_items_all_alike_have_the_point_as_interval() -> None:
    summary = only(outcome(5, 0, 0))
    assert (summary.ci_low, summary.ci_high) == (-1.0, -1.0)


def test_nothing_counts() -> None:
    summary = only([*both("x", "unparsed", "tie"), judged("y", "ba", "model_a")])
    assert (summary.n, summary.unparsed) == (0, 2)
    assert summary.p_value is summary.p_holm is summary.ci_low is summary.ci_high is None
    assert summarise([]) == []


def test_holm_is_within_one_judge_and_leaves_out_empty_pairs() -> None:
    rows = [
        *outcome(0, 0, 6, pair=("m0", "m1")),  # p = 1/32, the smaller of two: times 2
        *outcome(0, 0, 5, pair=("m1", "m2")),  # p = 1/16, times 1; no less than 2/32
        *both("x", "unparsed", "unparsed", pair=("m2", "dpo")),  # no p: not counted
        *outcome(0, 0, 6, judge="k", pair=("m0", "m1")),  # alone under its judge
    ]
    summaries = summarise(rows)
    assert [(s.judge, s.model_a, s.model_b) for s in summaries] == [
        ("j", "m0", "m1"),
        ("j", "m1", "m2"),
        ("j", "m2", "dpo"),
        ("k", "m0", "m1"),
    ]
    assert [s.p_holm for s in summaries] == [1 / 16, 1 / 16, None, 1 / 32]


def test_duplicates_are_refused() -> None:
    with pytest.raises(DataError, match=r"item 'x7' .* order 'ab'"):
        summarise([judged("x7", "ab", "tie"), judged("x7", "ab", "model_a")])


def test_a_pairs_numbers_depend_on_nothing_else() -> None:
    rows = outcome(10, 7, 20)
    alone = only(rows)
    beside = summarise([*outcome(3, 3, 3, judge="k"), *reversed(rows)])[1]
    assert beside == alone == only(rows)
    assert summarise(iter(rows), seed=1)[0].p_value == alone.p_value


def test_bootstrap_against_resampling_items_one_by_one() -> None:
    summary = only(outcome(30, 20, 50))
    items = np.array([-1] * 30 + [0] * 20 + [1] * 50)
    rng = np.random.default_rng(1)
    means = items[rng.integers(0, 100, size=(10_000, 100))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    assert summary.ci_low == pytest.approx(low, abs=0.0101)  # one step of 1 / n
    assert summary.ci_high == pytest.approx(high, abs=0.0101)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(VERDICTS), st.sampled_from(VERDICTS)), max_size=30))
def test_counts_add_up(verdicts: list[tuple[Verdict, Verdict]]) -> None:
    rows = [row for i, (ab, ba) in enumerate(verdicts) for row in both(str(i), ab, ba)]
    for summary in summarise(rows, bootstrap_samples=200):
        assert summary.wins_a + summary.ties + summary.wins_b == summary.n
        assert summary.n + summary.unparsed == len(verdicts)
        if summary.n:
            assert summary.p_value is not None
            assert summary.p_holm is not None
            assert 0 < summary.p_value <= summary.p_holm <= 1
            assert summary.ci_low is not None
            assert summary.ci_high is not None
            assert -1 <= summary.ci_low <= summary.ci_high <= 1


@settings(max_examples=30)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_swapping_the_models_mirrors_the_numbers(wins_a: int, ties: int, wins_b: int) -> None:
    if wins_a + ties + wins_b == 0:
        return
    rows = outcome(wins_a, ties, wins_b)
    swapped = [
        judged(
            row.item_id,
            "ba" if row.order == "ab" else "ab",
            SWAPPED.get(row.verdict, row.verdict),
            pair=("B", "A"),
        )
        for row in rows
    ]
    one, other = (only(each, bootstrap_samples=1000) for each in (rows, swapped))
    assert (one.wins_a, one.ties, one.wins_b) == (other.wins_b, other.ties, other.wins_a)
    assert one.p_value == other.p_value
    assert one.ci_low is not None
    assert other.ci_high is not None
    # Exact, but where both win as often: there the same draws serve both sides, and without ties
    # the difference moves in steps of 2 / n.
    step = 2.01 / one.n if wins_a == wins_b else 1e-12
    assert one.ci_low == pytest.approx(-other.ci_high, abs=step)


def test_position_bias() -> None:
    rows = [
        *both("1", "model_a", "model_b"),  # the first one twice
        *both("2", "model_a", "model_a"),  # the first one once
        *both("3", "tie", "model_a"),  # a tie names nobody; then the second one
        *both("4", "unparsed", "unparsed"),
        *both("5", "tie", "tie", judge="undecided"),
    ]
    bias = position_bias(rows)
    assert (bias["j"].hits, bias["j"].n, bias["j"].value) == (3, 5, 0.6)
    assert (bias["undecided"].n, bias["undecided"].value) == (0, None)


def test_reading(tmp_path: Path) -> None:
    rows = outcome(2, 1, 1)
    write_rows(tmp_path / "one.parquet", rows, Judgement)
    (tmp_path / "shards").mkdir()
    write_rows(tmp_path / "shards" / "0.parquet", rows[:3], Judgement)
    write_rows(tmp_path / "shards" / "1.parquet", rows[3:], Judgement)
    lines = [json.dumps({**asdict(row), "extra": 1}) for row in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join([*lines, "", ""]))
    for name in ("one.parquet", "shards", "rows.jsonl"):
        assert read_judgements(tmp_path / name) == rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "A wins"}, r"line 2.*verdict.*A wins.*model_a.*model_b.*tie.*unparsed"),
        ({"order": "first"}, r"line 2.*order.*first.*ab.*ba"),
        ({"item_id": None}, r"line 2.*item_id"),
    ],
)
def test_wrong_values_are_named(
    tmp_path: Path, change: dict[str, str | None], message: str
) -> None:
    good = asdict(judged("x", "ab", "tie"))
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(good)}\n{json.dumps({**good, **change})}\n")
    with pytest.raises(DataError, match=message):
        read_judgements(path)


def test_a_missing_field_and_a_broken_line_are_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = asdict(judged("x", "ab", "tie"))
    del row["verdict"]
    path.write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"line 1: the field 'verdict' is missing"):
        read_judgements(path)
    path.write_text("no json")
    with pytest.raises(DataError, match=r"line 1.*JSON"):
        read_judgements(path)


def test_a_wrong_value_in_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows = [judged("x", "ab", "tie"), judged("x", "ba", "draw")]  # type: ignore[arg-type]
    write_rows(path, rows, Judgement)
    with pytest.raises(DataError, match=r"row 1.*verdict.*draw.*unparsed"):
        read_judgements(path)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_judgements(tmp_path / "none.parquet")
    with pytest.raises(DataError, match="no Parquet file"):
        read_judgements(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_judgements(tmp_path / "binary")
