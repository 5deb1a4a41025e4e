"""Counting answers, and the share of unread ones that ends a stage."""

import pytest

from sage_core.answers.tally import Tally, joined
from sage_core.errors import AnswersError


def counted(**outcomes: int) -> Tally:
    tally = Tally()
    for outcome, number in outcomes.items():
        for each in range(number):
            tally.add("judge j", f"{outcome}/{each}", outcome, f"said {each}\n" + "x" * 500)
    return tally


def test_up_to_the_share_a_stage_goes_on_and_above_it_stops() -> None:
    counted(read=95, cut=3, refused=2).check(0.05, "the.setting")
    with pytest.raises(AnswersError) as caught:
        counted(read=94, cut=2, refused=4).check(0.05, "the.setting")
    message = str(caught.value)
    for part in ("judge j: 6 of 100 answers", "4 refused", "2 cut", "the.setting = 0.05",
                 "'refused/0'", "said 0", "use another model"):  # fmt: skip
        assert part in message
    assert "\n" not in message
    assert len(message) < 900


def test_each_role_has_a_share_of_its_own() -> None:
    tally = counted(read=100)
    tally.add("annotator", "a", "empty")
    with pytest.raises(AnswersError, match="annotator: 1 of 1 answers could not be read"):
        tally.check(0.05, "s")


def test_a_part_ends_early_only_where_most_of_many_are_unread() -> None:
    counted(cut=19).check_part(0.05, "s")
    counted(read=50, cut=50).check_part(0.05, "s")
    with pytest.raises(AnswersError, match="51 of 100"):
        counted(read=49, cut=51).check_part(0.05, "s")
    counted(read=49, cut=51).check_part(0.6, "s")
    counted(cut=100).check_part(1.0, "s")


def test_counts_add_up_over_shards() -> None:
    first, second = counted(read=3, cut=1), counted(read=2, empty=2)
    whole = joined([first.as_dict(), second.as_dict()])
    assert whole.as_dict()["roles"] == {"judge j": {"asked": 8, "cut": 1, "empty": 2, "read": 5}}
    assert [each.request for each in whole.unread] == ["cut/0", "empty/0", "empty/1"]
    assert whole.lines() == ["judge j: 5 of 8 answers read, 2 empty, 1 cut"]
    assert joined([]).lines() == []
