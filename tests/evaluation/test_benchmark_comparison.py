"""Models against m0 on the same documents of a benchmark."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from scipy import stats

from sage_core.errors import DataError
from sage_core.evaluation.benchmarks.compare import Change, Scored, changes
from sage_core.evaluation.benchmarks.harness import Score
from sage_core.schema import BenchmarkDocument


def scored(model: str, values: Sequence[float], task: str = "piqa", metric: str = "acc") -> Scored:
    mean = sum(values) / len(values)
    return Scored(
        model=model,
        title=task,
        shown=metric,
        licence="MIT",
        scores=(Score(task, metric, mean, 0.01, len(values), "1.0", "validation"),),
        documents=tuple(
            BenchmarkDocument(model, task, f"{task}/{number}", f"h{number}", metric, value)
            for number, value in enumerate(values)
        ),
    )


def only(found: Sequence[Change]) -> Change:
    (change,) = found
    return change


def test_mcnemars_exact_test_counts_the_documents_that_changed() -> None:
    """12 right under both, 1 gained, 7 lost, 5 wrong under both: the sign test of 1 in 8."""
    before = [1.0] * 12 + [0.0] * 1 + [1.0] * 7 + [0.0] * 5
    after = [1.0] * 12 + [1.0] * 1 + [0.0] * 7 + [0.0] * 5
    change = only(changes([scored("m0", before), scored("m1", after)], "m0"))
    assert (change.n, change.gained, change.lost) == (25, 1, 7)
    assert change.p_value == pytest.approx(stats.binomtest(1, 8).pvalue, abs=1e-12)
    assert change.p_holm == change.p_value
    assert change.difference == pytest.approx(-6 / 25)
    assert change.relative == pytest.approx(-6 / 19)


def test_values_that_are_not_right_or_wrong_are_compared_by_rank() -> None:
    before, after = [10.0, 40.0, 70.0, 55.0, 20.0, 35.0], [12.0, 44.0, 69.0, 63.0, 36.0, 67.0]
    change = only(changes([scored("m0", before), scored("m1", after)], "m0"))
    expected = stats.wilcoxon([b - a for a, b in zip(before, after, strict=True)]).pvalue
    assert change.p_value == pytest.approx(expected)


def test_holm_takes_all_models_and_benchmarks_together() -> None:
    base, worse = [1.0] * 10, [0.0] * 10
    rows = [
        scored(model, values, task)
        for task in ("piqa", "arc_easy")
        for model, values in (("m0", base), ("m1", worse), ("m2", base))
    ]
    found = {(change.model, change.task): change for change in changes(rows, "m0")}
    p = stats.binomtest(0, 10).pvalue
    assert found["m1", "piqa"].p_holm == pytest.approx(4 * p)
    assert found["m1", "arc_easy"].p_holm == pytest.approx(4 * p)
    assert found["m2", "piqa"].p_holm == 1.0


def test_a_baseline_of_nothing_has_no_relative_change() -> None:
    change = only(changes([scored("m0", [0.0, 0.0]), scored("m1", [1.0, 0.0])], "m0"))
    assert change.relative is None
    assert change.difference == 0.5


def test_without_the_baseline_there_are_no_changes() -> None:
    assert changes([scored("m1", [1.0, 0.0])], "m0") == []
    assert changes([], "m0") == []


def test_other_documents_are_refused() -> None:
    other = scored("m1", [1.0, 0.0])
    other = replace(
        other, documents=(other.documents[0], replace(other.documents[1], hash="another"))
    )
    with pytest.raises(DataError, match="'piqa': m0 and m1 were asked other documents"):
        changes([scored("m0", [1.0, 0.0]), other], "m0")


@pytest.mark.parametrize(("field", "value"), [("version", "2.0"), ("split", "test"), ("n", 3)])
def test_another_version_is_refused(field: str, value: object) -> None:
    other = scored("m1", [1.0, 0.0])
    other = replace(other, scores=(replace(other.scores[0], **{field: value}),))
    with pytest.raises(DataError, match=f"m0 has version '1.0'.*{value}"):
        changes([scored("m0", [1.0, 0.0]), other], "m0")
