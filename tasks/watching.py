"""What stages take: seconds, tokens, memory and money in the parent run, and the machine's load.

Seconds, tokens, memory and price of an artefact are in its manifest, under ``cost``. A run's
metrics add up the artefacts that it made or found, so a run whose stages all came from the cache
shows what they once took.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.entities import Metric
from mlflow.utils.time import get_current_time_millis

from sage_core.storage import MANIFEST, ArtifactRef, read_json
from tasks.caching import Cached, listening
from tasks.home import store

SYSTEM_METRICS = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
STAGES = "stages.json"
_SAMPLES = 6  # of 10 s each, MLflow's own interval: one value of each metric a minute


@contextmanager
def watching(run_id: str) -> Iterator[None]:
    """Log to an MLflow run what the stages within the block took, and the machine's load meanwhile
    (``MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false``: not the load)."""
    found: dict[str, ArtifactRef] = {}
    made: set[str] = set()

    def listen(_: str, cached: Cached) -> None:
        found[cached.ref.path] = cached.ref
        if not cached.hit:
            made.add(cached.ref.path)

    def log() -> None:
        log_stages(run_id, stage_costs(store().root / path for path in found), made)

    try:
        with listening(listen), _load_logged(run_id):
            yield
    except BaseException as error:
        try:
            log()
        except Exception as second:  # the first one is what the reader has to know
            error.add_note(f"and MLflow was not told what the stages took: {second}")
        raise
    log()


def stage_costs(folders: Iterable[Path]) -> dict[str, dict[str, float]]:
    """By stage, what its artefacts took together: ``artefacts``, ``seconds``, ``tokens_read``,
    ``tokens_written``, ``tokens_per_s`` (written, by seconds of the stage), ``usd`` (0 without a
    price) and the highest ``peak_memory_gb`` and ``peak_gpu_memory_gb`` of one artefact."""
    stages: dict[str, dict[str, float]] = {}
    for folder in folders:
        if not (folder / MANIFEST).is_file():
            continue
        record = read_json(folder / MANIFEST)
        cost = record.get("cost", {})
        engines = cost.get("engines", {}).values()
        total = stages.setdefault(record["stage"], {})
        for name, value in (
            ("artefacts", 1),
            ("seconds", cost.get("seconds", 0.0)),
            ("tokens_read", sum(usage["prompt_tokens"] for usage in engines)),
            ("tokens_written", sum(usage["completion_tokens"] for usage in engines)),
            ("usd", cost.get("usd", 0.0)),
        ):
            total[name] = total.get(name, 0.0) + value
        for name, value in cost.get("memory", {}).items():
            total[name] = max(total.get(name, 0.0), value)
    for total in stages.values():
        if total["seconds"] and total["tokens_written"]:
            total["tokens_per_s"] = total["tokens_written"] / total["seconds"]
    return stages


def log_stages(run_id: str, stages: dict[str, dict[str, float]], made: set[str]) -> None:
    """Metrics ``cost.STAGE.*`` and ``cost.total.*`` of a run, and a table of them."""
    import pandas as pd

    if not stages:
        return
    now = get_current_time_millis()
    totals = {
        f"total.{name}": sum(stage[name] for stage in stages.values())
        for name in ("artefacts", "seconds", "tokens_read", "tokens_written", "usd")
    }
    totals["total.artefacts_made"] = float(len(made))
    values = totals | {
        f"{stage}.{name}": value for stage, cost in stages.items() for name, value in cost.items()
    }
    metrics = [Metric(f"cost.{name}", value, now, 0) for name, value in values.items()]
    client = mlflow.MlflowClient()
    for start in range(0, len(metrics), 1000):  # MLflow's limit for one call
        client.log_batch(run_id, metrics=metrics[start : start + 1000])
    rows = [{"stage": stage, **cost} for stage, cost in stages.items()]
    client.log_table(run_id, pd.DataFrame(rows).fillna(0.0), artifact_file=STAGES)


@contextmanager
def _load_logged(run_id: str) -> Iterator[None]:
    """MLflow's own thread logs the machine's load as ``system/*`` within the block."""
    if os.environ.get(SYSTEM_METRICS, "true").lower() in ("false", "0"):
        yield
        return
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, samples_before_logging=_SAMPLES, resume_logging=True)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
