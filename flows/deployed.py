"""The flows of deployments, with a short form each.

Prefect makes the form of the parameters: their types are its choices and bounds, and the docstring
has what each field means. Its server refuses what does not fit them before it makes a run.
"""

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from flows import described, form, registered
from flows.advanced import Advanced, overrides
from flows.approval import ask, conclude
from flows.form import Judge, Preset, Task
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


@flow(name="sage-refine", task_runner=task_runner(Runner.threads))
def refine_form(
    model: str = "champion",
    name: str = "",
    data: str = "",
    reader: str = "",
    budget: BudgetConfig = BudgetConfig(),  # noqa: B008 - frozen
    advanced: Advanced = Advanced(),  # type: ignore[valid-type] # noqa: B008
) -> dict[str, Any]:
    """Train a registered model further on new dialogues: the result is registered as `candidate`,
    and no gate decides on it. Without new dialogues it ends at once.

    Args:
        model: The version to refine: its alias (champion, dpo, m2, ...) or number.
        name: The registered model; empty = the only one that there is.
        data: The dialogues, old and new, in the data folder; empty = where the model's were.
        reader: The format of the dialogues; empty = that of the model's.
        budget: The most that the run may take by its plan, as if it were a whole run.
        advanced: Changes of the settings of the model's run; they count over the fields above.
    """
    fields = {"corpus.input": data, "corpus.reader": reader}
    changes = [*form.changes(fields), *form.limits(budget), *overrides(advanced)]
    with held_by_flow():
        record = registered.refine(model, name, changes, form.confined)
    described.refined(record)
    return record


@flow(name="sage-evaluate", task_runner=task_runner(Runner.threads))
def evaluate_form(
    first: str = "m1",
    second: str = "champion",
    name: str = "",
    other: str = "",
    judges: list[Judge] = [],  # noqa: B006 - the form shows it
    advanced: Advanced = Advanced(),  # type: ignore[valid-type] # noqa: B008
) -> dict[str, Any]:
    """Compare any two registered models on held-out situations: judges, and measures without one.

    Args:
        first: A version: its alias (champion, candidate, dpo, m2, ...) or number.
        second: Another one; positive differences speak for it.
        name: The registered model of both; empty = the only one that there is.
        other: The registered model of the second, if it is another one.
        judges: Who compares them; empty = the judges of the first one's run.
        advanced: Changes of the settings of the first one's run; they count over the fields above.
    """
    fields = {"evaluation.judges": [judge.settings() for judge in judges]}
    changes = [*form.changes(fields), *overrides(advanced)]
    with held_by_flow():
        record = registered.evaluate(first, second, name, other, changes, form.confined)
    described.evaluated(record)
    return record


@flow(name="sage-benchmark", task_runner=task_runner(Runner.threads))
def benchmark_form(
    model: str = "champion",
    against: str = "m0",
    name: str = "",
    tasks: list[Task] = [],  # noqa: B006 - the form shows it
    limit: Annotated[int, Field(ge=0)] = 100,
    advanced: Advanced = Advanced(),  # type: ignore[valid-type] # noqa: B008
) -> dict[str, Any]:
    """Which abilities has a registered model kept? Benchmarks by lm-eval, as metrics of its run.

    Args:
        model: A version: its alias (champion, candidate, dpo, m2, ...) or number.
        against: The version whose figures are the baseline.
        name: The registered model; empty = the only one that there is.
        tasks: The benchmarks; empty = those of the model's run.
        limit: Documents of each benchmark; 0 = all.
        advanced: Changes of the settings of the model's run; they count over the fields above.
    """
    changes = [f"benchmarks.limit={limit}", *form.changes({"benchmarks.tasks": tasks})]
    with held_by_flow():
        found = registered.benchmark(
            model, against, name, [*changes, *overrides(advanced)], form.confined
        )
    described.benchmarked(found)
    return found
