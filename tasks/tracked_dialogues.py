"""Sample dialogues in MLflow: as traces, which a person reads, filters and annotates there, and as
rows of an evaluation dataset.

A dialogue is one trace of its model's run, each reply a span with the states that led to it. What
is logged already is not logged again. The dialogues are also among a run's tables, so a store that
keeps no traces or datasets costs a warning and not the run.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import mlflow
from mlflow.entities import SpanType
from mlflow.exceptions import MlflowException

from sage_core.sac import parse
from sage_core.schema import Trajectory
from sage_core.storage import digest

_DIALOGUE = "sage.dialogue"
_RUN = "sage.run"
_MOST = 5000  # traces of one run looked through for those logged already


def log_dialogues(
    experiment: str,
    run: str,
    model_runs: Mapping[str, str],
    dialogues: Mapping[str, Sequence[Trajectory]],
    dataset: str,
) -> None:
    """Log dialogues by model.

    Args:
        experiment: the id of the experiment.
        run: the id of the pipeline's run.
        model_runs: model -> the id of its run.
        dialogues: model -> the dialogues that it led.
        dataset: the name of the evaluation dataset.
    """
    try:
        _log_traces(experiment, run, model_runs, dialogues)
        _log_dataset(experiment, run, dialogues, dataset)
    except MlflowException as error:
        warnings.warn(
            f"MLflow at {mlflow.get_tracking_uri()} took no traces or no datasets: {error}; the "
            "dialogues are in the run's dialogues.json and in the report",
            stacklevel=2,
        )


def _log_traces(
    experiment: str,
    run: str,
    model_runs: Mapping[str, str],
    dialogues: Mapping[str, Sequence[Trajectory]],
) -> None:
    there = mlflow.search_traces(
        locations=[experiment],
        filter_string=f"tags.`{_RUN}` = '{run}'",
        max_results=_MOST,
        include_spans=False,
        return_type="list",
    )
    logged = {trace.info.tags.get(_DIALOGUE) for trace in there}
    for model, trajectories in dialogues.items():
        for each in trajectories:
            key = digest([model, asdict(each)])
            if key in logged:
                continue
            tags = {
                _RUN: run,
                _DIALOGUE: key,
                "sage.model": model,
                "sage.situation": each.situation_id,
                "sage.emotion": each.emotion,
            }
            _trace(experiment, model_runs[model], model, each, tags)
    mlflow.flush_trace_async_logging()


def _trace(
    experiment: str, model_run: str, model: str, dialogue: Trajectory, tags: dict[str, str]
) -> None:
    messages = _messages(dialogue)
    root = mlflow.start_span_no_context(
        f"{model}: {dialogue.situation_id}",
        span_type=SpanType.AGENT,
        inputs={"model": model, "situation": dialogue.situation, "emotion": dialogue.emotion},
        experiment_id=experiment,
        tags=tags,
        metadata={"mlflow.sourceRun": model_run},
    )
    for place, turn in enumerate(dialogue.turns):
        if turn.role != "assistant":
            continue
        chain = parse(turn.content)
        span = mlflow.start_span_no_context(
            "reply",
            span_type=SpanType.CHAT_MODEL,
            parent_span=root,
            inputs={"messages": messages[:place]},
            attributes={"sees": asdict(chain.user), "plans": asdict(chain.agent), "cut": turn.cut},
        )
        span.set_outputs({"choices": [{"message": messages[place]}]})
        span.end()
    root.set_outputs({"messages": messages})
    root.end()


def _log_dataset(
    experiment: str, run: str, dialogues: Mapping[str, Sequence[Trajectory]], name: str
) -> None:
    from mlflow.genai import datasets  # imports half of MLflow

    found = datasets.search_datasets(experiment_ids=[experiment], filter_string=f"name = '{name}'")
    dataset = found[0] if found else datasets.create_dataset(name=name, experiment_id=experiment)
    records: list[dict[str, Any]] = [
        {
            "inputs": {
                "model": model,
                "situation": each.situation,
                "situation_id": each.situation_id,  # rows with equal inputs are one row
                "run": run,
            },
            "outputs": {"messages": _messages(each)},
            "expectations": {"emotion": each.emotion},
            "tags": {"situation": each.situation_id},
        }
        for model, trajectories in dialogues.items()
        for each in trajectories
    ]
    dataset.merge_records(records)


def _messages(dialogue: Trajectory) -> list[dict[str, str]]:
    """What was said, without states."""
    return [
        {
            "role": turn.role,
            "content": parse(turn.content).utterance if turn.role == "assistant" else turn.content,
        }
        for turn in dialogue.turns
    ]
