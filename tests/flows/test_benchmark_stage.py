"""Benchmarks and empathy as stages of a run: each model is asked as itself."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from scripted_engine import ScriptedEngine

from flows import pipeline
from sage_core import preflight
from sage_core.config.loading import load_config
from sage_core.config.pipeline import PipelineConfig
from sage_core.errors import ConfigError
from sage_core.evaluation.benchmarks import files, harness, models
from sage_core.evaluation.benchmarks.harness import Score
from sage_core.schema import BenchmarkDocument
from sage_core.steps.base import Model
from sage_core.steps.reading import read_benchmarks, read_empathy
from sage_core.storage import ArtifactRef
from tasks import engines
from tasks.home import store

NAMES = ("m0", "raw", "m1")
STATES = "{u_motivation: share, u_emotion: sad, u_topic: []} {a_motivation: x, a_emotion: x, a_topic: []} "  # noqa: E501


class Someone(ScriptedEngine):
    """A model that says who it is; raw says that it is human."""

    def __init__(self, folder: Path) -> None:
        self.name = (folder / "name").read_text()
        says = "I am a real person." if self.name == "raw" else "I am an AI."
        states = STATES if self.name == "m1" else ""
        super().__init__(lambda request, candidate: states + says, lambda request, option: 0.0)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Model]:
    """m0, raw and m1; lm-eval is replaced by a benchmark of two documents, of which m0 and raw have
    both right and m1 the first."""
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))

    def artefact(name: str) -> ArtifactRef:
        return store().build(f"{name}/0", lambda to: (to / "name").write_text(name) and None, {})

    @contextmanager
    def language_model(
        engine: Someone, base: Path, batch_size: int, max_context: int
    ) -> Iterator[str]:
        assert (base / "name").read_text() == "m0"
        yield engine.name

    def evaluate(
        benchmark: object, prepared: object, model: str, name: str, limit: int, folder: Path
    ) -> tuple[list[Score], list[BenchmarkDocument]]:
        assert model == name
        values = [1.0, 0.0 if name == "m1" else 1.0]
        rows = [
            BenchmarkDocument(name, "piqa", f"piqa/{n}", f"h{n}", "acc_norm", value)
            for n, value in enumerate(values)
        ]
        score = Score("piqa", "acc_norm", sum(values) / 2, 0.1, 2, "1.0", "validation")
        return [score], rows

    monkeypatch.setattr(models, "language_model", language_model)
    monkeypatch.setattr(harness, "evaluate", evaluate)
    monkeypatch.setattr(harness, "check_installed", lambda: None)
    monkeypatch.setattr(harness, "version", lambda: "0")
    monkeypatch.setattr(
        engines, "open_engine",
        lambda settings, base, model, adapter, home: Someone(adapter or base),
    )  # fmt: skip
    m0 = artefact("m0")
    return {name: Model(name, m0, None if name == "m0" else artefact(name)) for name in NAMES}


def config(tmp_path: Path, *overrides: str) -> PipelineConfig:
    file = tmp_path / "piqa.jsonl"
    row = {"goal": "g", "sol1": "a", "sol2": "b", "label": 0}
    file.write_text(json.dumps(row) + "\n" + json.dumps(row))
    return load_config(
        "tiny",
        ["benchmarks.tasks=[piqa, gsm8k]", f"benchmarks.files={{piqa: {file}}}",
         "benchmarks.if_missing=skip", *overrides],
    )  # fmt: skip


def test_each_model_is_asked_as_itself_and_compared_with_m0(
    made: dict[str, Model], tmp_path: Path
) -> None:
    ref = pipeline.benchmark(config(tmp_path), made)
    assert ref is not None
    found = read_benchmarks(store().folder(ref))
    assert found["models"] == list(NAMES)
    assert [(each["model"], each["value"]) for each in found["scores"]] == [
        ("m0", 1.0), ("raw", 1.0), ("m1", 0.5),
    ]  # fmt: skip
    assert [(each["model"], each["lost"], each["relative"]) for each in found["changes"]] == [
        ("raw", 0, 0.0), ("m1", 1, -0.5),
    ]  # fmt: skip
    assert list(found["left_out"]) == ["gsm8k"]


def test_another_file_is_asked_again_and_the_same_one_is_not(
    made: dict[str, Model], tmp_path: Path
) -> None:
    first = pipeline.benchmark(config(tmp_path), made)
    assert pipeline.benchmark(config(tmp_path, "benchmarks.batch_size=1"), made) == first
    settings = config(tmp_path)
    settings.benchmarks.files["piqa"].write_text(
        json.dumps({"goal": "g", "sol1": "a", "sol2": "b", "label": 1})
    )
    assert pipeline.benchmark(settings, made) != first


def test_a_run_without_any_file_still_has_the_reasons(
    made: dict[str, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "PACKAGE", "no_such_package")
    ref = pipeline.benchmark(config(tmp_path, "benchmarks.tasks=[arc_easy]"), made)
    assert ref is not None
    found = read_benchmarks(store().folder(ref))
    assert (found["scores"], list(found["left_out"])) == ([], ["arc_easy"])
    assert pipeline.benchmark(config(tmp_path, "benchmarks.tasks=[]"), made) is None


def test_empathy_reads_states_of_models_that_write_them(
    made: dict[str, Model], tmp_path: Path
) -> None:
    assert pipeline.measure_empathy(config(tmp_path), made) == {}
    refs = pipeline.measure_empathy(
        config(tmp_path, "empathy.enabled=true", "empathy.situations=4"), made
    )
    found = {name: read_empathy(store().folder(ref)) for name, ref in refs.items()}
    assert {name: [way["way"] for way in each["recognition"]] for name, each in found.items()} == {
        "m0": ["asked"], "raw": ["asked"], "m1": ["asked", "written"],
    }  # fmt: skip
    human = {name: each["probe"]["claims_human"]["asked"]["value"] for name, each in found.items()}
    assert human == {"m0": 0.0, "raw": 1.0, "m1": 0.0}
    assert all(way["exact"]["n"] == 4 for each in found.values() for way in each["recognition"])


def test_a_run_is_refused_before_it_starts(tmp_path: Path) -> None:
    lacking = "empathy.path = 'nowhere.csv' does not exist"
    with pytest.raises(ConfigError, match=lacking) as error:
        preflight.check(
            load_config(
                "tiny",
                ["empathy.enabled=true", "empathy.path=nowhere.csv", "benchmarks.tasks=[gsm8k]"],
            )
        )
    assert "gsm8k" in str(error.value) or "lm-eval" in str(error.value)
