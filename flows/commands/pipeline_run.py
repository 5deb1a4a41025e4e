"""The pipeline run in this process, and what it made."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from flows.pipeline import pipeline
from flows.runners import Runner, shared_server, task_runner
from sage_core.answers.tally import Tally
from sage_core.config.pipeline import PipelineConfig
from sage_core.evaluation.tournament import Design
from sage_core.steps.names import REPORT
from sage_core.steps.reading import read_benchmarks, read_figures, read_quality
from sage_core.storage import ArtifactRef
from tasks import caching
from tasks.answers import tally_of
from tasks.caching import Cached, listening
from tasks.home import store
from tasks.progress import console


@dataclass(frozen=True)
class RunResult:
    """The artefacts of a run, its win rates and figures, how many answers of annotator,
    selector and judges were read, what it measures without a judge, its benchmarks, and the names
    of the stages that were made and of those that the cache had."""

    artifacts: dict[str, Any]
    win_rates: dict[str, Any]
    models: list[dict[str, Any]]
    answers: Tally
    quality: dict[str, Any]
    benchmarks: dict[str, Any] | None
    made: list[str]
    cached: list[str]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "artifacts": _plain(self.artifacts),
            "win_rates": self.win_rates,
            "models": self.models,
            "answers": self.answers.as_dict(),
            "quality": self.quality,
            "benchmarks": self.benchmarks,
            "made": self.made,
            "cached": self.cached,
            "seconds": round(self.seconds, 1),
        }

    @property
    def design(self) -> Design:
        """What the judged pairs can tell of all models."""
        return TypeAdapter(Design).validate_python(self.win_rates["design"])

    @property
    def report(self) -> Path:
        """The page of the report."""
        return store().folder(self.artifacts["report"]) / REPORT


def run_pipeline(config: PipelineConfig, runner: Runner = Runner.threads) -> RunResult:
    """Run the flow in this process, naming each stage as it ends."""
    start = time.monotonic()
    with name_stages() as names, shared_server(runner):
        artifacts = pipeline.with_options(task_runner=task_runner(runner))(config)
    win_rates, models = read_figures(store().folder(artifacts["figures"]))
    quality = asdict(read_quality(store().folder(artifacts["quality"])))
    played = [*artifacts["trajectories"], *artifacts["rollouts"].values()]
    answers = tally_of([artifacts["sac"], *played, artifacts["judgements"]])
    asked = artifacts["benchmarks"]
    benchmarks = read_benchmarks(store().folder(asked)) if asked else None
    return RunResult(
        artifacts,
        win_rates,
        models,
        answers,
        quality,
        benchmarks,
        names[False],
        names[True],
        time.monotonic() - start,
    )


@contextmanager
def name_stages() -> Iterator[dict[bool, list[str]]]:
    """Name each stage as it ends, within; gives the lists of those made (False) and of those that
    the cache had (True), which fill as they end."""
    names: dict[bool, list[str]] = {True: [], False: []}
    start = time.monotonic()

    def report_stage(name: str, cached: Cached) -> None:
        names[cached.hit].append(name)
        mark = "[dim]cached[/]" if cached.hit else "[green]made[/]  "
        cost = "" if cached.hit else f"[dim]{caching.cost(cached.ref)}{_adapted(cached.ref)}[/]"
        console.print(f"{time.monotonic() - start:6.0f} s  {mark}  {name}{cost}", highlight=False)

    with listening(report_stage):
        yield names


def _adapted(ref: ArtifactRef) -> str:
    """What training reached of the model."""
    lora = store().manifest(ref).get("execution", {}).get("lora")
    return f"  {lora}" if lora else ""


def _plain(value: Any) -> Any:
    if isinstance(value, ArtifactRef):
        return asdict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
