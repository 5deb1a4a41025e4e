"""Runs side by side: what differs, by how much, and the page of it."""

from dataclasses import replace

import pytest
from finished_home import finished_run
from test_report import Page, words

from sage_core.evaluation.comparison import (
    Comparison,
    FinishedRun,
    compare,
    render_comparison,
    run_names,
)
from sage_core.evaluation.winrate import PairSummary
from tasks import runs


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[FinishedRun]:
    """m2's replies have 12 words in run A and 15 in run B; m1's have ten in both."""
    folder = tmp_path_factory.mktemp("homes")
    found = [
        finished_run(folder / name, length, seed=seed)
        for name, length, seed in (("a", 12, 0), ("b", 15, 1))
    ]
    return [runs.read(runs.find(str(each)), name) for name, each in zip("AB", found, strict=True)]


ACROSS = PairSummary("j", "m2 of A", "m2 of B", 6, 0, 1, 5, 0, 0.06, 0.03, 0.3, 1.0)


def test_runs_are_named_by_letters() -> None:
    assert run_names(3) == ["A", "B", "C"]
    assert run_names(28)[25:] == ["Z", "A2", "B2"]


def test_what_differs_and_by_how_much(two: list[FinishedRun]) -> None:
    found = compare(two)
    assert [(each.key, each.values) for each in found.settings] == [("seed", ("0", "1"))]
    assert found.models == ("m1", "m2")
    change = found.changes["B"]["m2"]["reply_words"]
    assert (change.n, change.value, change.ci_low, change.ci_high) == (6, 3.0, 3.0, 3.0)
    assert found.changes["B"]["m1"]["reply_words"].value == 0.0
    assert found.changes.keys() == {"B"}
    assert found.pairs == (("m1", "m2"),)


def test_models_that_are_the_same_are_named_and_not_shown(two: list[FinishedRun]) -> None:
    found = compare(two)
    assert (found.same, found.shown) == (("m1",), ("m2",))
    assert "m1: the same in all runs, and not shown." in words(render_comparison(found))
    again = compare([two[0], replace(two[0], name="B")])
    assert (again.same, again.shown) == (("m1", "m2"), ("m1", "m2"))
    assert "m1, m2: the same in all runs." in words(render_comparison(again))


def test_costs_add_up_over_the_stages_of_a_run(two: list[FinishedRun]) -> None:
    """Two rollouts, two measurements, quality, figures and the report: seven stages."""
    costs = two[1].costs
    assert costs["measurements"].written == 2 * 15
    assert two[1].total.seconds == pytest.approx(7 * 1.5)
    assert two[1].total.read == 7 * 100
    assert sum(each.written for each in costs.values()) == two[1].total.written


def page(found: Comparison) -> Page:
    html = render_comparison(found)
    read = Page(html)
    assert read.open == []
    assert read.tags["script"] == 0
    assert read.anchors <= set(read.ids)
    return read


def test_the_page_has_all_of_it(two: list[FinishedRun]) -> None:
    html = render_comparison(compare(two, [ACROSS]))
    page(compare(two, [ACROSS]))
    text = words(html)
    assert "m2 of B beats m2 of A in the eyes of the one judge, j." in text
    assert "seed01" in text
    assert "m2 beats m1 in the eyes of the one judge, long" in text  # A's own answer: 6 of 6
    assert "15.00 15.00 to 15.00, n = 6 +3.00 (+3.00 to +3.00)" in text
    assert "all10.570084 10.5700105" in text
    assert render_comparison(compare(two)) == render_comparison(compare(two))


def test_what_a_run_lacks_is_a_dash(two: list[FinishedRun]) -> None:
    """B without m2 and without judgements; nothing was judged across."""
    bare = replace(
        two[1],
        summaries=(),
        quality=replace(two[1].quality, models=two[1].quality.models[:1]),
        measured=two[1].measured[:1],
    )
    found = compare([two[0], bare])
    read = page(found)
    assert "Nothing was judged." in read.text
    assert "Across runs" not in read.text
    assert found.changes["B"].keys() == {"m1"}


def test_text_of_settings_is_escaped(two: list[FinishedRun]) -> None:
    evil = two[1].config.model_copy(update={"name": "<script>alert(1)</script>"})
    html = render_comparison(compare([two[0], replace(two[1], config=evil)]))
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
