"""Win rates: every expected number is derived by hand beside it."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multinomial

from sage_core.errors import DataError
from sage_core.evaluation.winrate import (
    PairSummary,
    improves,
    position_bias,
    read_judgements,
    situations_needed,
    summarise,
    verdict,
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
    for times, said in ((wins_a, "model_a"), (ties, "tie"), (wins_b, "model_b")):
        for _ in range(times):
            rows += both(str(next(numbers)), said, said, judge=judge, pair=pair)  # type: ignore[arg-type]
    return rows


def only(rows: list[Judgement]) -> PairSummary:
    (summary,) = summarise(rows)
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
    # No item of four was decided, which says little of how many would be.
    assert summary.ci_low is not None
    assert summary.ci_high == -summary.ci_low
    assert 0.3 < summary.ci_high < 0.6


@pytest.mark.parametrize("counts", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_one_item_has_a_wide_interval(counts: tuple[int, int, int]) -> None:
    summary = only(outcome(*counts))
    assert summary.p_value == 1.0
    assert summary.ci_low is not None
    assert summary.ci_high is not None
    assert summary.ci_low < 0 < summary.ci_high
    assert summary.ci_high - summary.ci_low > 1.5
    assert verdict(summary) == "no difference shown"


def test_items_all_alike_have_no_point_as_interval() -> None:
    """Five wins of five: Clopper and Pearson's lower limit of their share is 0.025 ** (1 / 5) =
    0.4782, so the difference is at least 2 * 0.4782 - 1 = -0.0436 if all items are decided."""
    summary = only(outcome(5, 0, 0))
    assert summary.ci_low == pytest.approx(-1.0, abs=0.01)
    assert summary.ci_high == pytest.approx(0.0436, abs=0.01)


def coverage(n: int, shares: tuple[float, float, float]) -> float:
    """How often the interval has the true difference, over all outcomes of ``n`` items."""
    found = 0.0
    for wins_a in range(n + 1):
        for ties in range(n + 1 - wins_a):
            counts = (wins_a, ties, n - wins_a - ties)
            summary = only(outcome(*counts))
            assert summary.ci_low is not None
            assert summary.ci_high is not None
            if summary.ci_low <= shares[2] - shares[0] <= summary.ci_high:
                found += float(multinomial.pmf(counts, n, shares))
    return found


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("shares", [(0.33, 0.34, 0.33), (0.1, 0.3, 0.6), (0.02, 0.05, 0.93)])
def test_coverage_of_few_items(n: int, shares: tuple[float, float, float]) -> None:
    """No less than 93%; the exact test is conservative, and so is its interval."""
    assert coverage(n, shares) >= 0.93


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60))
def test_interval_p_value_and_words_agree(wins_a: int, ties: int, wins_b: int) -> None:
    if wins_a + ties + wins_b == 0:
        return
    summary = only(outcome(wins_a, ties, wins_b))
    assert summary.p_value is not None
    assert summary.ci_low is not None
    assert summary.ci_high is not None
    assert summary.ci_low <= (wins_b - wins_a) / summary.n <= summary.ci_high
    beyond = summary.ci_low > 0 or summary.ci_high < 0
    assert beyond is (summary.p_value < 0.05)
    better = "B better" if wins_b > wins_a else "A better"
    assert verdict(summary) == (better if beyond else "no difference shown")


def test_words_of_a_difference_that_the_correction_takes_away() -> None:
    # 0 of 6 has p = 1/32; with two pairs Holm's is 1/16.
    rows = [*outcome(0, 0, 6, pair=("m0", "m1")), *outcome(3, 0, 3, pair=("m1", "m2"))]
    assert [verdict(each) for each in summarise(rows)] == [
        "m1 ahead, but not among all pairs",
        "no difference shown",
    ]


# Table 1 of the paper: wins of A, ties, wins of B, as printed, with B's percentage; the star says
# that the paper calls B significantly better. The third row has 859 wins of B in print, which do
# not sum to 2,544; 909 do, and have the printed percentage.
TABLE_1 = {
    "GPT-3.5": [
        (688, 892, 964, 38.0, True), (823, 852, 869, 34.1, True), (690, 945, 909, 36.0, True),
        (811, 911, 822, 32.0, False), (768, 941, 835, 33.0, False), (542, 899, 1103, 43.0, True),
    ],
    "Mixtral": [
        (617, 1105, 822, 32.0, True), (684, 1043, 817, 32.1, True), (619, 1086, 839, 33.0, True),
        (720, 1076, 748, 29.0, False), (753, 1063, 728, 29.0, False), (473, 1184, 887, 35.0, True),
    ],
}  # fmt: skip
PAIRS = [("m0", "m1"), ("raw", "m1"), ("m1", "m2"), ("m2", "m3"), ("m3", "dpo"), ("m0", "dpo")]


@pytest.mark.parametrize("judge", TABLE_1)
def test_table_1_of_the_paper(judge: str) -> None:
    """Its percentages and its stars, but for one: raw-m1 by GPT-3.5 (see above)."""
    rows = [
        row
        for pair, (a, ties, b, _, _) in zip(PAIRS, TABLE_1[judge], strict=True)
        for row in outcome(a, ties, b, judge=judge, pair=pair)
    ]
    for summary, (a, ties, b, percent, starred) in zip(
        summarise(rows), TABLE_1[judge], strict=True
    ):
        assert (summary.n, summary.wins_a, summary.ties, summary.wins_b) == (2544, a, ties, b)
        assert 100 * summary.wins_b / summary.n == pytest.approx(percent, abs=0.55)
        right = starred and (judge, a) != ("GPT-3.5", 823)
        assert (verdict(summary) == f"{summary.model_b} better") is right
        assert summary.p_holm is not None
        assert (summary.p_holm < 0.05) is right


def test_a_pair_named_the_other_way_around_is_the_same_pair() -> None:
    rows = outcome(2, 1, 3)
    changed = [
        row
        if number % 3
        else judged(
            row.item_id,
            "ba" if row.order == "ab" else "ab",
            SWAPPED.get(row.verdict, row.verdict),
            pair=("B", "A"),
        )
        for number, row in enumerate(rows, start=1)
    ]
    assert summarise(changed) == summarise(rows)


def test_a_missing_order_is_counted_and_named() -> None:
    rows = [*both("1", "tie", "tie"), judged("2", "ab", "tie"), judged("3", "ba", "model_a")]
    summary = only(rows)
    assert (summary.n, summary.unparsed, summary.missing) == (1, 2, 2)
    assert summary.lacking == ("2 lacks ba", "3 lacks ab")
    many = only([judged(str(item), "ab", "tie") for item in range(9)])
    assert (many.missing, len(many.lacking)) == (9, 5)


def test_false_discoveries_are_counted_over_all_judges() -> None:
    """Benjamini and Hochberg: p times tests over rank: 1/32 * 2 and 1/16 * 2 / 2."""
    rows = [*outcome(0, 0, 6), *outcome(0, 0, 5, judge="k")]
    assert [each.p_fdr for each in summarise(rows)] == [1 / 16, 1 / 16]


def test_situations_needed() -> None:
    """Half of the items tied: sd = sqrt(1/2), effect 0.0707, (1.96 + 0.8416)^2 / 0.0707^2 = 1570,
    and two more for the t-distribution."""
    rows = [*outcome(25, 50, 25), *outcome(0, 9, 0, judge="k")]
    needed = situations_needed(summarise(rows))
    assert needed["j"] == pytest.approx(1571, abs=2)
    assert needed["k"] is None


@pytest.mark.parametrize(
    ("judges", "expected"),
    [
        ([(0, 1)], False),  # one win of one
        ([(0, 6)], True),  # p = 1/32
        ([(0, 6), (3, 3)], False),  # Holm: 1/16
        ([(0, 7), (3, 3)], True),  # Holm: 1/32
        ([(6, 0)], False),  # the wrong way
        ([], False),
    ],
)
def test_a_model_improves_by_a_corrected_test(
    judges: list[tuple[int, int]], expected: bool
) -> None:
    rows = [row for n, (a, b) in enumerate(judges) for row in outcome(a, 4, b, judge=str(n))]
    assert improves(summarise(rows)) is expected


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


def test_duplicates_are_refused_and_counted() -> None:
    with pytest.raises(DataError, match=r"^1 judgements.* 1 of them.*item 'x7' .* order 'ab'"):
        summarise([judged("x7", "ab", "tie"), judged("x7", "ab", "model_a")])
    rows = [judged(str(n), "ab", "tie") for n in range(8)]
    with pytest.raises(DataError, match=r"^8 judgements.* 0 of them .*item '0'.*and 3 more"):
        summarise([*rows, *rows])
    with pytest.raises(DataError, match=r"item 'x' in order 'ba' of 'A'"):  # as the pair is named
        summarise([judged("x", "ba", "tie"), judged("x", "ab", "tie", pair=("B", "A"))])


def test_a_model_against_itself_is_refused() -> None:
    with pytest.raises(DataError, match=r"'x'.*'A' with itself"):
        summarise([judged("x", "ba", "tie", pair=("A", "A"))])


def test_a_pairs_numbers_depend_on_nothing_else() -> None:
    rows = outcome(10, 7, 20)
    alone = only(rows)
    beside = summarise([*outcome(3, 3, 3, judge="k"), *reversed(rows)])[1]
    assert replace(beside, p_fdr=alone.p_fdr) == alone == only(rows)  # that is over all judges
    assert summarise(iter(rows)) == [alone]


def test_the_interval_of_many_items_is_that_of_a_bootstrap() -> None:
    summary = only(outcome(300, 200, 500))
    items = np.array([-1] * 300 + [0] * 200 + [1] * 500)
    rng = np.random.default_rng(1)
    means = items[rng.integers(0, 1000, size=(4_000, 1000))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    assert summary.ci_low == pytest.approx(low, abs=0.005)
    assert summary.ci_high == pytest.approx(high, abs=0.005)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(VERDICTS), st.sampled_from(VERDICTS)), max_size=30))
def test_counts_add_up(verdicts: list[tuple[Verdict, Verdict]]) -> None:
    rows = [row for i, (ab, ba) in enumerate(verdicts) for row in both(str(i), ab, ba)]
    for summary in summarise(rows):
        assert summary.wins_a + summary.ties + summary.wins_b == summary.n
        assert summary.n + summary.unparsed == len(verdicts)
        if summary.n:
            assert summary.p_value is not None
            assert summary.p_holm is not None
            assert 0 < summary.p_value <= summary.p_holm <= 1
            assert summary.ci_low is not None
            assert summary.ci_high is not None
            assert -1 <= summary.ci_low <= summary.ci_high <= 1


@settings(max_examples=30, deadline=None)
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
    one, other = (only(each) for each in (rows, swapped))
    assert (one.wins_a, one.ties, one.wins_b) == (other.wins_b, other.ties, other.wins_a)
    assert one.p_value == other.p_value
    assert one.ci_low is not None
    assert other.ci_high is not None
    assert one.ci_low == pytest.approx(-other.ci_high)


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
    with pytest.raises(DataError, match="not a Parquet file"):
        read_judgements(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_judgements(tmp_path / "binary")
