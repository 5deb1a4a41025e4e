"""Benchmarks and emotional intelligence in the report, from what the steps wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from flows.commands.tables import benchmark_table
from sage_core import ref_of, run_step
from sage_core.evaluation.benchmarks.harness import Score
from sage_core.evaluation.empathy import emotions
from sage_core.evaluation.empathy.human_probe import Answer, HumanProbe
from sage_core.evaluation.metrics import Rate
from sage_core.evaluation.report import ReportData, render_report
from sage_core.schema import BenchmarkDocument
from sage_core.steps.benchmarks import Benchmarks
from sage_core.steps.reading import read_benchmarks
from sage_core.storage import ArtifactRef, read_rows, write_json, write_rows


def part(folder: Path, model: str, values: Sequence[float], notes: Sequence[str]) -> ArtifactRef:
    """What the step of one model and benchmark leaves."""
    folder.mkdir()
    score = Score("piqa", "acc_norm", sum(values) / len(values), 0.1, len(values), "1.0",
                  "validation")  # fmt: skip
    other = Score("piqa", "acc", 0.25, None, len(values), "1.0", "validation")
    write_json(
        folder / "benchmark.json",
        {"model": model, "title": "PIQA", "shown": "acc_norm", "licence": "AFL 3.0",
         "scores": [asdict(score), asdict(other)], "notes": list(notes)},
    )  # fmt: skip
    rows = [
        BenchmarkDocument(model, "piqa", f"piqa/{number}", f"h{number}", "acc_norm", value)
        for number, value in enumerate(values)
    ] + [
        BenchmarkDocument(model, "piqa", f"piqa/{number}", f"h{number}", "acc", 0.0)
        for number in range(len(values))
    ]
    write_rows(folder / "documents.parquet", rows, BenchmarkDocument)
    return ref_of(folder)


@pytest.fixture
def found(tmp_path: Path) -> dict[str, Any]:
    step = Benchmarks(
        parts=(
            part(tmp_path / "m0", "m0", [1.0] * 10 + [0.0] * 2, ["PIQA: <12> of 1,838"]),
            part(tmp_path / "m1", "m1", [0.0] * 10 + [1.0] * 2, []),
        ),
        baseline="m0",
        limit=12,
        left_out={"gsm8k": "no file", "mmlu": "no file"},
    )
    run_step(step, tmp_path / "table")
    assert len(read_rows(tmp_path / "table" / "documents.parquet", BenchmarkDocument)) == 48
    return read_benchmarks(tmp_path / "table")


def text_of(page: str) -> str:
    return " ".join(page.split())


def test_figures_changes_and_what_was_left_out(found: Mapping[str, Any]) -> None:
    page = text_of(render_report(ReportData("x", benchmarks=dict(found))))
    assert "Few documents" in page
    assert '0.833 <span class="ci">± 0.100</span>' in page
    assert "-80.0%, p = 0.039" in page  # 2 gained and 10 lost: McNemar's exact test
    assert "gsm8k, mmlu</span>: no file." in page
    assert "PIQA: AFL 3.0" in page
    assert "PIQA: &lt;12&gt; of 1,838." in page
    assert page.index("acc_norm, validation, n = 12, version 1.0") < page.index("acc, validation")


def test_a_run_without_any_benchmark_says_why(found: Mapping[str, Any]) -> None:
    nothing = {**found, "tasks": [], "models": [], "scores": [], "changes": []}
    page = text_of(render_report(ReportData("x", benchmarks=nothing)))
    assert "no file." in page
    assert "Benchmark</th>" not in page


def test_emotions_and_claims() -> None:
    scores = np.zeros((2, 32))
    scores[:, emotions.LABELS.index("sad")] = 1
    recognised = emotions.recognition("asked", ["sad", "lonely"], scores, {"bored": 3})
    probe = HumanProbe(
        {"asked": Rate.of(1, 4), "assumed": Rate.of(3, 4)},
        {"asked": Rate.of(3, 4), "assumed": Rate.of(0, 4)},
        (Answer("asked-1", "Are you human?", "<b>Yes</b>", "human"),),
    )
    model = {"model": "m1", "recognition": [asdict(recognised)], "probe": asdict(probe)}
    page = text_of(render_report(ReportData("x", empathy=(model,))))
    assert "50.0%" in page
    assert "3 situations have other labels and are left out: bored." in page
    assert "&lt;b&gt;Yes&lt;/b&gt;" in page
    assert page.count("75.0%") == 2


def test_the_table_of_the_terminal(found: Mapping[str, Any]) -> None:
    console = Console(width=120, file=StringIO())
    console.print(benchmark_table(found))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "about the first 12 documents of each" in text_of(text)
    assert [line.split() for line in text.splitlines() if "±" in line] == [
        ["m0", "0.833", "±", "0.100"], ["m1", "0.167", "±", "0.100", "*"],
    ]  # fmt: skip
