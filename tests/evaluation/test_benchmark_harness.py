"""lm-eval's own definitions on local files: prompts, filters and figures are lm-eval's."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from benchmark_data import EMOBENCH_EA, EQ_BENCH, GSM8K, PIQA, lines, mmlu

pytest.importorskip("lm_eval")

from lm_eval.api.model import LM

from sage_core.config.benchmarks import BenchmarksConfig
from sage_core.evaluation.benchmarks import BENCHMARKS, files, harness
from sage_core.evaluation.benchmarks.harness import Score
from sage_core.schema import BenchmarkDocument


class Scripted(LM):  # type: ignore[misc]
    """Finds the continuation with ``liked`` likeliest, and says ``says`` of each prompt."""

    def __init__(self, liked: str = "", says: str = "") -> None:
        super().__init__()
        self.liked, self.says = liked, says
        self.prompts: list[str] = []

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        self.prompts += [request.args[0] for request in requests]
        return [(float(self.liked in request.args[1]), False) for request in requests]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        self.prompts += [request.args[0] for request in requests]
        return [self.says] * len(requests)

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        raise NotImplementedError


def ask(
    task: str, settings: BenchmarksConfig, model: LM, folder: Path
) -> tuple[dict[str, Score], list[BenchmarkDocument], files.Prepared]:
    benchmark = BENCHMARKS.load(task)
    located = files.locate(settings, task, benchmark, harness.parts(benchmark))
    prepared = files.prepare(benchmark, located, folder / "data")
    scores, documents = harness.evaluate(
        benchmark, prepared, model, "m1", settings.limit, folder / "tasks"
    )
    return {score.metric: score for score in scores}, documents, prepared


def test_multiple_choice(tmp_path: Path) -> None:
    """Of the first five documents the first choice is right in three: 0, 2 and 4. The standard
    error of a mean of n is the standard deviation (n - 1) over the root of n."""
    settings = BenchmarksConfig(files={"piqa": lines(tmp_path / "piqa.jsonl", PIQA)}, limit=5)
    model = Scripted("turn")
    scores, documents, _ = ask("piqa", settings, model, tmp_path)
    found = scores["acc"]
    assert (found.task, found.value, found.n) == ("piqa", 0.6, 5)
    assert found.stderr == pytest.approx((0.6 * 0.4 * 5 / 4 / 5) ** 0.5)
    assert (found.version, found.split) == ("1.0", "validation")
    assert {each.document: each.value for each in documents if each.metric == "acc"} == {
        f"piqa/{number}": float(number % 2 == 0) for number in range(5)
    }
    assert model.prompts[0] == "Question: open jar 0\nAnswer:"


def test_from_the_hub_lm_eval_takes_its_own_data_and_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is replaced by three splits of different lengths."""
    import datasets

    row = {"question": "Which?", "answerKey": "A",
           "choices": {"text": ["this", "that"], "label": ["A", "B"]}}  # fmt: skip
    asked = []

    def load_dataset(path: str, name: str | None = None, **more: Any) -> Any:
        asked.append((path, name))
        sizes = {"train": 2, "validation": 3, "test": 4}
        return datasets.DatasetDict(
            {split: datasets.Dataset.from_list([row] * size) for split, size in sizes.items()}
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    benchmark = BENCHMARKS.load("arc_easy")
    scores, documents = harness.evaluate(benchmark, None, Scripted("this"), "m1", 0, tmp_path)
    assert set(asked) == {("allenai/ai2_arc", "ARC-Easy")}
    assert {(score.n, score.split, score.value) for score in scores} == {(4, "test", 1.0)}
    assert {(each.model, each.task) for each in documents} == {("m1", "arc_easy")}


def test_mmlu_is_all_subjects_with_their_examples(tmp_path: Path) -> None:
    """The first documents of the 57 subjects have the answer A, the second ones B; a limit of 60
    documents is two of each subject."""
    benchmark = BENCHMARKS.load("mmlu")
    subjects = harness.parts(benchmark)
    assert len(subjects) == 57
    mmlu(tmp_path / "data-of-mmlu", subjects)
    settings = BenchmarksConfig(input=tmp_path / "data-of-mmlu", limit=60)
    model = Scripted(" A")
    scores, documents, prepared = ask("mmlu", settings, model, tmp_path)
    assert (scores["acc"].value, scores["acc"].n, scores["acc"].version) == (0.5, 114, "2")
    assert scores["acc"].stderr is not None
    assert len({each.document for each in documents}) == 114
    assert model.prompts[0].startswith("The following are multiple choice questions")
    assert prepared.notes == (
        "MMLU: 114 documents in the file, 14,042 in the published test split",
    )


def test_gsm8k_has_a_strict_and_a_flexible_match(tmp_path: Path) -> None:
    """The answer to the first question is 2, said without the form that the strict match wants.
    Five examples come from the other documents, since there is no file of them."""
    settings = BenchmarksConfig(files={"gsm8k": lines(tmp_path / "gsm8k.jsonl", GSM8K)}, limit=1)
    model = Scripted(says="That must be 2")
    scores, _, _ = ask("gsm8k", settings, model, tmp_path)
    assert scores["exact_match,strict-match"].value == 0.0
    assert scores["exact_match,flexible-extract"].value == 1.0
    (prompt,) = model.prompts
    assert prompt.count("Question:") == 6
    assert prompt.count("What is 1 plus 1?") == 1


def test_eq_bench_and_emobench(tmp_path: Path) -> None:
    """All four emotions as the reference has them are 100 points."""
    settings = BenchmarksConfig(
        files={
            "eq_bench": lines(tmp_path / "eq.jsonl", EQ_BENCH),
            "emobench_ea": lines(tmp_path / "ea.jsonl", EMOBENCH_EA),
        }
    )
    says = "\n".join(f"E{n}: {n}" for n in range(1, 5))
    scores, _, _ = ask("eq_bench", settings, Scripted(says=says), tmp_path / "eq")
    assert scores["eqbench"].value == pytest.approx(100)
    assert scores["percent_parseable"].value == 100
    model = Scripted("Look")
    scores, _, _ = ask("emobench_ea", settings, model, tmp_path / "ea")
    assert (scores["acc_norm"].value, scores["acc_norm"].n) == (1.0, 1)
    assert model.prompts[0] == (
        "Ann lost her keys.\nQuestion: What is best for Ann to do or to say?\nAnswer:"
    )


def test_the_benchmark_of_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (Path(__file__).parents[2] / "docs/extending.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n# my_pkg/benchmarks.py\n(.*?)```", guide, re.DOTALL)
    (tmp_path / "manners_of_ours.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    name = "manners_of_ours:manners"
    rows = [{"said": "Please.", "polite": 1}, {"said": "Go!", "polite": 0}]
    settings = BenchmarksConfig(files={name: lines(tmp_path / "manners.jsonl", rows)})
    scores, _, _ = ask(name, settings, Scripted("yes"), tmp_path)
    assert (scores["acc"].task, scores["acc"].value, scores["acc"].n) == ("manners", 0.5, 2)
