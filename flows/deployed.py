"""The flows of deployments, with a short form each.

Prefect makes the form of the parameters: their types are its choices and bounds, and the docstring
has what each field means. Its server refuses what does not fit them before it makes a run.
"""

from typing import Any

from prefect import flow

from flows import described, form
from flows.advanced import Advanced, overrides
from flows.approval import ask, conclude
from flows.form import Judge, Preset
from flows.new_corpus import register
from flows.pipeline import tracked
from flows.retraining import retrain
from flows.runners import Runner, held_by_flow, task_runner
from sage_core.config.budget import BudgetConfig
from tasks.decisions import WAITING
from tasks.registry import Registry


@flow(name="sage-pipeline", task_runner=task_runner(Runner.threads))
def run_form(
    preset: Preset = "demo",
    name: str = "",
    data: str = "",
    reader: str = "",
    base_model: str = "",
    judges: list[Judge] = [],  # noqa: B006 - the form shows it
    budget: BudgetConfig = BudgetConfig(),  # noqa: B008 - frozen
    advanced: Advanced = Advanced(),  # type: ignore[valid-type] # noqa: B008
) -> dict[str, Any]:
    """Run the whole method. What is left empty is the preset's.

    Args:
        preset: The settings to start from.
        name: Name of the experiment and of the registered model in MLflow.
        data: Your dialogues: a file or folder in the data folder.
        reader: The format of your dialogues: messages, sharegpt, convokit, ...
        base_model: An instruct model of a hub, or a folder in the data folder.
        judges: Who compares the models.
        budget: The most that the run may take by its plan; else it ends before any work.
        advanced: All other settings; they count over the fields above.
    """
    config = form.configuration(
        preset,
        overrides(advanced),
        name=name,
        data=data,
        reader=reader,
        base_model=base_model,
        judges=judges,
        budget=budget,
    )
    return tracked(config)


@flow(name="sage-retrain", task_runner=task_runner(Runner.threads))
def retrain_form(
    name: str = "",
    data: str = "",
    reader: str = "",
    approval: bool = False,
    budget: BudgetConfig = BudgetConfig(),  # noqa: B008 - frozen
    advanced: Advanced = Advanced(),  # type: ignore[valid-type] # noqa: B008
) -> dict[str, Any]:
    """Train a challenger for the champion on what is new, and promote it if it passes the gate.
    Without new dialogues it ends at once.

    Args:
        name: The registered model; empty = the only one that there is.
        data: The dialogues, old and new, in the data folder; empty = where the champion's were.
        reader: The format of the dialogues; empty = the champion's.
        approval: A challenger that passes waits here until a person approves or refuses it.
        budget: The most that the round may take by its plan, as if it were a whole run.
        advanced: Changes of the settings of the champion's run; they count over the fields above.
    """
    fields = {"corpus.input": data, "corpus.reader": reader, "retrain.approval": approval}
    changes = [
        *form.changes(fields),
        *form.limits(budget),
        *overrides(advanced),
    ]
    with held_by_flow():
        record = retrain(name, changes, form.confined)
    described.outcome(record)
    if record["outcome"] == WAITING:
        answer = ask(record)  # ends this process; with the answer the run starts again from the top
        with held_by_flow():
            record = conclude(Registry(name), record, answer)
        described.outcome(record)
    return record


@flow(name="sage-prepare-data", task_runner=task_runner(Runner.threads))
def prepare_data_form(name: str = "", data: str = "", reader: str = "") -> dict[str, Any]:
    """Read dialogues as the champion's run did, and register them as the next version of its
    corpus, if they differ from all before. The deployment retrain then starts by itself.

    Args:
        name: The registered model; empty = the only one that there is.
        data: The dialogues, old and new, in the data folder; empty = where the champion's were.
        reader: The format of the dialogues; empty = the champion's.
    """
    with held_by_flow():
        version = register(name, data, reader, form.confined)
    described.corpus_version(version)
    return version
