"""What can be done with registered models, in a scripted home: refine, evaluate, benchmark."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
from scripted_home import arrive, config, scripted

from flows import described, registered
from sage_core.errors import ConfigError
from sage_core.evaluation.benchmarks import harness, models
from sage_core.evaluation.benchmarks.harness import Score
from sage_core.schema import BenchmarkDocument
from tasks import checkpoints
from tasks.registry import CANDIDATE, Registry


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    with scripted(home):
        yield home


@pytest.fixture(scope="module")
def refined(home: Path) -> list[dict[str, Any]]:
    """What refining m2 says before and after new dialogues have come."""
    before = registered.refine("m2")
    arrive(home, 2, "sunny")
    return [before, registered.refine("m2")]


def test_refine(refined: list[dict[str, Any]]) -> None:
    """A registered model and new data in, a candidate out; nobody decides on it."""
    registry = Registry()
    with pytest.raises(ConfigError, match="no champion yet"):
        registered.refine()
    m2 = registry.find("m2")
    nothing, record = refined
    assert nothing == {"refined": m2.version, "new_dialogues": 0, "outcome": "nothing new"}
    assert (record["outcome"], record["new_dialogues"]) == ("candidate", 4)
    candidate = registry.find(CANDIDATE)
    assert candidate.version == record["candidate"]
    assert quality(candidate.sha256) == quality(m2.sha256) + 1
    assert registry.decisions() == []
    assert registry.champions() == []

    # It can be refined further, and what it has seen is not new to it. To m2 it still is.
    assert registered.refine(CANDIDATE)["outcome"] == "nothing new"
    assert registered.refine("m2")["candidate"] == candidate.version  # from the cache

    with pytest.raises(ConfigError, match="'m7' is not a version or alias of 'weekly'"):
        registered.refine("m7")
    with pytest.raises(ConfigError, match="was not made from m1"):
        registered.refine("raw")


@pytest.mark.usefixtures("refined")
def test_a_candidate_that_waits_for_a_person_keeps_its_alias(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waiting = [{"outcome": "waiting for approval"}]
    monkeypatch.setattr(Registry, "decisions", lambda self: waiting)
    with pytest.raises(ConfigError, match="waits for a person; approve or refuse it first"):
        registered.refine("m2")


@pytest.mark.usefixtures("refined")
def test_evaluate() -> None:
    """The better one wins, in Prefect's record and in MLflow; m0 and raw can take part."""
    registry = Registry()
    m2, candidate = registry.find("m2"), registry.find(CANDIDATE)
    record = registered.evaluate("m2", CANDIDATE)
    assert record["models"] == {"m2": str(m2), "candidate": str(candidate)}
    (row,) = record["win_rates"]
    assert (row["judge"], row["n"], row["wins_a"], row["wins_b"]) == ("m0", 2, 0, 2)
    assert row["difference"] == 1
    measures = {each["measure"]: each for each in record["measures"]}
    assert measures["Log-likelihood under m0"]["n"] == 2
    assert set(measures["Log-likelihood under m0"]) >= {"m2", "candidate", "ci_low", "ci_high"}

    client = mlflow.MlflowClient()
    (shown,) = described.win_rate_table(record)
    assert list(shown.items())[:4] == [
        ("judge", "m0"), ("m2 wins", 0), ("ties", 0), ("candidate wins", 2),
    ]  # fmt: skip
    run = client.get_run(record["run"])
    assert run.info.run_name == "candidate against m2"
    assert run.info.status == "FINISHED"
    assert run.data.metrics["evaluation.m0.difference"] == 1
    table = mlflow.MlflowClient().load_table(
        record["experiment"], "win_rates.json", [run.info.run_id]
    )
    assert list(table["wins_b"]) == [2]

    back = registered.evaluate(CANDIDATE, "m2", overrides=["evaluation.situations=4"])
    assert back["win_rates"][0]["n"] == 4
    assert back["win_rates"][0]["difference"] == -1
    for first, second in (("m0", "candidate"), ("raw", "m0")):
        assert registered.evaluate(first, second)["win_rates"][0]["n"] == 2


@pytest.mark.usefixtures("refined")
def test_evaluation_does_not_need_the_corpus() -> None:
    """Which may be gone; what it needs is still checked."""
    gone = ["corpus.input=/nowhere"]
    assert registered.evaluate("m2", CANDIDATE, overrides=gone)["win_rates"][0]["n"] == 2
    with pytest.raises(ConfigError, match="nowhere"):
        registered.evaluate("m2", CANDIDATE, overrides=["situations.path=/nowhere.csv"])


@pytest.mark.usefixtures("refined")
def test_two_models_of_one_name_are_told_apart_by_their_versions(home: Path) -> None:
    registry = Registry()
    first = registry.find(CANDIDATE)
    arrive(home, 3, "foul")
    registered.refine("m2")
    second = registry.find(CANDIDATE)
    record = registered.evaluate(first.version, second.version)
    assert list(record["models"]) == [f"weekly.{first.version}", f"weekly.{second.version}"]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("m1", "m1", "are the same model"),
        ("m1", "m9", "'m9' is not a version or alias"),
    ],
)
def test_evaluate_refuses(home: Path, first: str, second: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        registered.evaluate(first, second)


def test_models_of_other_settings_are_not_compared(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    m2 = Registry().find("m2")
    others = config(home, model={"max_context": 512})
    own = Registry.config
    monkeypatch.setattr(
        Registry, "config", lambda self, version: others if version == m2 else own(self, version)
    )
    with pytest.raises(ConfigError, match="have other settings 'model'"):
        registered.evaluate("m1", "m2")


def test_benchmark(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores become metrics of both models' runs, at their iterations; the gate reads them."""
    file = home / "data" / "piqa.jsonl"
    file.write_text('{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}\n')
    scores = {"m0": 0.5, "m2": 0.25}

    @contextmanager
    def language_model(engine: Any, base: Path, batch_size: int, context: int) -> Iterator[None]:
        yield

    def evaluate(
        benchmark: Any, prepared: Any, model: Any, name: str, limit: int, folder: Path
    ) -> tuple[list[Score], list[BenchmarkDocument]]:
        value = scores[name]
        rows = [BenchmarkDocument(name, "piqa", "piqa/0", "h0", "acc_norm", value)]
        return [Score("piqa", "acc_norm", value, 0.1, 1, "1.0", "validation")], rows

    monkeypatch.setattr(models, "language_model", language_model)
    monkeypatch.setattr(harness, "evaluate", evaluate)
    monkeypatch.setattr(harness, "check_installed", lambda: None)
    monkeypatch.setattr(harness, "version", lambda: "0")
    found = registered.benchmark(
        "m2", overrides=["benchmarks.tasks=[piqa]", f"benchmarks.files={{piqa: {file}}}"]
    )
    assert found["models"] == ["m0", "m2"]
    registry = Registry()
    m0, m2 = registry.find("m0"), registry.find("m2")
    assert registry.benchmarks(m0, m2) == {"piqa": (0.5, 0.25)}
    client = mlflow.MlflowClient()
    (point,) = client.get_metric_history(m2.run_id, "benchmark.piqa")
    assert point.step == 2
    assert client.get_run(m2.run_id).data.metrics["benchmark.piqa.vs_m0.relative"] == -0.5
    with pytest.raises(ConfigError, match="no benchmark is named"):
        registered.benchmark("m2", overrides=["benchmarks.tasks=[]"])


def quality(sha256: str) -> int:
    folder = checkpoints.by_hash(sha256)
    assert folder is not None
    return int((folder / "quality").read_text())
