"""What is found of registered models after the run that made them, in MLflow: an evaluation of two
is a run of its own, and benchmarks are metrics of the model's run."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from mlflow.entities import Metric
from mlflow.utils.time import get_current_time_millis
from prefect.runtime import flow_run

from tasks.tracking_store import connect

ITERATION_TAG = "sage.iteration"
"""On a model's run: the step of its metrics; m0 and raw 0, m1 1, m2 2, ..., dpo last."""


def benchmark_metrics(found: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """The metrics of each model in a table of benchmarks
    (:func:`sage_core.steps.reading.read_benchmarks`): every score, and of the one that tables show
    its standard error, its relative change against the baseline and Holm's p."""
    shown = {each["task"]: each["shown"] for each in found["tasks"]}
    values: dict[str, dict[str, float | None]] = {name: {} for name in found["models"]}
    for score in found["scores"]:
        name = f"benchmark.{score['task']}"
        metric = score["metric"].replace(",", ".")
        values[score["model"]][f"{name}.{metric}"] = score["value"]
        if score["metric"] == shown[score["task"]]:
            values[score["model"]] |= {name: score["value"], f"{name}.stderr": score["stderr"]}
    for change in found["changes"]:
        if change["metric"] == shown[change["task"]]:
            name = f"benchmark.{change['task']}.vs_{found['baseline']}"
            values[change["model"]][f"{name}.relative"] = change["relative"]
            values[change["model"]][f"{name}.p_holm"] = change["p_holm"]
    return values


def log_metrics(run_id: str, values: Mapping[str, float | None]) -> None:
    """Log figures on the run of a model, at its iteration; they replace earlier ones."""
    client = connect()
    step = int(client.get_run(run_id).data.tags.get(ITERATION_TAG, 0))
    client.log_batch(run_id, metrics=_metrics(values, step))


def log_evaluation(
    experiment: str,
    title: str,
    tags: Mapping[str, str],
    metrics: Mapping[str, float | None],
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
) -> tuple[str, str]:
    """A run of its own, with its tables by file name; the ids of its experiment and itself."""
    client = connect()
    found = client.get_experiment_by_name(experiment)
    assert found is not None  # of a registered model
    flow = {
        "sage.flow_run_id": str(flow_run.get_id() or ""),
        "sage.flow_run": str(flow_run.ui_url or ""),
    }
    run = client.create_run(found.experiment_id, run_name=title, tags={**tags, **flow})
    client.log_batch(run.info.run_id, metrics=_metrics(metrics, 0))
    for name, rows in tables.items():
        client.log_table(run.info.run_id, pd.DataFrame(rows), artifact_file=name)
    client.set_terminated(run.info.run_id)
    return str(found.experiment_id), str(run.info.run_id)


def _metrics(values: Mapping[str, float | None], step: int) -> list[Metric]:
    now = get_current_time_millis()
    return [Metric(key, each, now, step) for key, each in values.items() if each is not None]
