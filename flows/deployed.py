"""The flows of deployments: the pipeline and retraining, with a short form each.

Prefect makes the form of the parameters: their types are its choices and bounds, and the docstring
has what each field means.
"""

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows import described, form
from flows.form import Override, Preset
from flows.pipeline import tracked
from flows.retraining import retrain
from flows.runners import Runner, held_by_flow, task_runner


@flow(name="sage-pipeline", task_runner=task_runner(Runner.threads))
def run_form(
    preset: Preset = "demo",
    name: str = "",
    data: str = "",
    reader: str = "",
    situations: str = "",
    base_model: str = "",
    seed: Annotated[int | None, Field(ge=0)] = None,
    overrides: list[Override] = [],  # noqa: B006 - the form shows it
) -> dict[str, Any]:
    """Run the whole method. What is left empty is the preset's.

    Args:
        preset: The settings to start from.
        name: Name of the experiment and of the registered model in MLflow.
        data: Your dialogues: a file or folder in the data folder.
        reader: The format of your dialogues: messages, sharegpt, convokit, ...
        situations: Your situations: a file or folder in the data folder.
        base_model: An instruct model of a hub, or a folder in the data folder.
        seed: Seed of all random draws.
        overrides: Other settings, each as key=value: search.candidates=8. The configuration
            reference has them all.
    """
    config = form.configuration(
        preset,
        name=name,
        data=data,
        reader=reader,
        situations=situations,
        base_model=base_model,
        seed=seed,
        overrides=overrides,
    )
    return tracked(config)


@flow(name="sage-retrain", task_runner=task_runner(Runner.threads))
def retrain_form(
    name: str = "",
    data: str = "",
    approval: bool = False,
    overrides: list[Override] = [],  # noqa: B006 - the form shows it
) -> dict[str, Any]:
    """Train a challenger for the champion on what is new, and promote it if it passes the gate.
    Without new dialogues it ends at once.

    Args:
        name: The registered model; empty = the only one that there is.
        data: The dialogues, old and new, in the data folder; empty = where the champion's were.
        approval: Leave the last word to a person, who promotes what passed: sage promote.
        overrides: Changes of the settings of the champion's run, each as key=value.
    """
    changes = [*overrides, *([f"corpus.input={data}"] if data else [])]
    changes += ["retrain.approval=true"] if approval else []
    with held_by_flow():
        record = retrain(name, changes, form.confined)
    described.outcome(record)
    return record
