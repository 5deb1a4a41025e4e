"""The command line, ``sage``. Heavy libraries are imported by the commands that need them."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from flows.chat import chat
from flows.export import export
from flows.options import AsJson, Input, InSplit, Output, Overrides, Preset, Wait, WhichSplit
from flows.plan import plan
from flows.runners import Runner
from flows.steer import app as steer_app
from sage_core.corpus.readers import READERS
from sage_core.errors import SageError

if TYPE_CHECKING:
    from sage_core.config.pipeline import PipelineConfig

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="State-action augmented dialogue models: train, search, judge, compare.",
)
corpus_app = typer.Typer(no_args_is_help=True, help="Training dialogues.")
train_app = typer.Typer(no_args_is_help=True, help="Train one checkpoint on a file.")
judge_app = typer.Typer(no_args_is_help=True, help="Pairwise judging.")
app.add_typer(corpus_app, name="corpus")
app.add_typer(judge_app, name="judge")
app.add_typer(train_app, name="train")
app.add_typer(steer_app, name="steer")
app.command()(chat)
app.command()(plan)
app.command()(export)

out = Console()

# Of a data set that is built for use elsewhere; a run of the pipeline would leave it unread.
_HELD_OUT = {"validation_share": 0.02, "test_share": 0.02}


def main() -> None:
    """Run the command line; wrong input ends with one message and exit code 2."""
    try:
        app()
    except SageError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {_escape(str(error))}", highlight=False)
        sys.exit(2)


@app.command()
def run(
    preset: Preset = "demo",
    overrides: Overrides = None,
    runner: Annotated[
        Runner, typer.Option(help="Where stages run that can run side by side.")
    ] = Runner.threads,
    verbose: Annotated[bool, typer.Option(help="Show Prefect's log.")] = False,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Run the whole pipeline: corpus, states, m0 to dpo, judging, report."""
    from flows import environment
    from sage_core.config.loading import load_config
    from sage_core.preflight import check
    from tasks import home

    config = load_config(preset, overrides or ())
    check(config)  # the flow does too, but only once a server runs
    with home.held(wait=wait):
        environment.prepare(quiet=not verbose)
        environment.stop_orphaned_servers()
        environment.check_prefect_database()

        from flows.run import run_pipeline

        result = run_pipeline(config, runner)
    if as_json:
        print(json.dumps(result.as_dict(), indent=2, sort_keys=True))  # noqa: T201
    else:
        result.show(out)


@app.command()
def doctor(preset: Preset = "demo", overrides: Overrides = None, as_json: AsJson = False) -> None:
    """What a preset needs, what is here, what is missing, and the fix for each.

    GPUs, memory and disk are those of sage plan.
    """
    from flows import environment
    from sage_core.config.loading import load_config

    config = load_config(preset, overrides or ())
    environment.prepare(quiet=True)

    from flows.doctor import examine

    checks = examine(config)
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))  # noqa: T201
    else:
        table = Table("", "What", "Found", "Fix", title=f"sage doctor: {preset}")
        for check in checks:
            mark = "[green]ok[/]" if check.ok else "[red]missing[/]"
            table.add_row(mark, check.what, _escape(check.found), _escape(check.mend))
        out.print(table)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


@app.command()
def ui(
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow UI.")] = 5000,
    worker: Annotated[bool, typer.Option(help="Also start a worker for deployments.")] = True,
    wait: Wait = True,
) -> None:
    """Start the Prefect server, the MLflow UI and a worker on loopback, over the SAGE home."""
    from flows import environment

    environment.prepare(quiet=False)

    from flows.ui import serve

    serve(prefect_port, mlflow_port, worker=worker, wait=wait)


@app.command()
def deploy() -> None:
    """Register the deployments of deployments/prefect.yaml on the server that `sage ui` runs."""
    from flows import environment

    environment.prepare(quiet=True)

    from flows.deploy import register

    for name in register():
        out.print(f"registered [bold]{name}[/]")


@corpus_app.command("build")
def corpus_build(
    output: Annotated[Path, typer.Option(help="Folder for the tables.")],
    reader: Annotated[
        str,
        typer.Option(help=f"{READERS.choices}."),
    ] = "chitchat",
    input_path: Annotated[
        Path | None,
        typer.Option("--input", help="File or folder of the reader; not for packaged data."),
    ] = None,
    overrides: Overrides = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes side by side; default: one per core.")
    ] = None,
    runner: Annotated[
        Runner | None,
        typer.Option(help="Run it as a Prefect flow with cached stages, on threads or a cluster."),
    ] = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Filter conversations into dialogues.parquet, rejected.parquet and funnel.json.

    Beside them: quarantine.jsonl, samples of unreadable records, and data_card.md.
    """
    from sage_core.config.loading import validate_config

    settings: dict[str, Any] = {"reader": reader, "input": input_path, **_HELD_OUT}
    config = validate_config(_with_overrides({"corpus": settings}, overrides)).corpus
    if runner is None:
        from sage_core.steps.local import build

        funnel = build(config, output, processes or os.cpu_count() or 1)
    else:
        from flows import environment
        from tasks import home

        with home.held(wait=wait):
            environment.prepare(quiet=True)
            environment.check_prefect_database()

            from flows.corpus import run_corpus

            funnel = run_corpus(config, output, runner)
    if as_json:
        print(json.dumps(funnel, indent=2))  # noqa: T201
        return
    table = Table("step", "kept", "dropped", "quarantined")
    for step in funnel:
        quarantined = str(step["quarantined"]) if "quarantined" in step else ""
        table.add_row(step["step"], str(step["kept"]), str(step["dropped"]), quarantined)
    out.print(table)


@app.command()
def annotate(
    input_path: Input,
    output: Output,
    split: InSplit = WhichSplit.train,
    preset: Preset = "demo",
    overrides: Overrides = None,
    wait: Wait = True,
) -> None:
    """Write down the states of dialogues.parquet: sac.parquet."""
    with _single(preset, overrides, wait) as config:
        from flows import single

        _said(single.annotate(config, input_path, output, split))


@train_app.command("sft")
def train_sft(
    input_path: Input,
    output: Output,
    parent: Annotated[
        Path | None, typer.Option(help="Checkpoint to go on from, with the refinement's settings.")
    ] = None,
    states: Annotated[bool, typer.Option(help="Without states: the baseline 'raw'.")] = True,
    split: InSplit = WhichSplit.train,
    preset: Preset = "demo",
    overrides: Overrides = None,
    wait: Wait = True,
) -> None:
    """Train on sac.parquet, or on the selected dialogues of trajectories.parquet."""
    with _single(preset, overrides, wait) as config:
        from flows import single

        _said(single.train_sft(config, input_path, output, parent, split, states=states))


@train_app.command("dpo")
def train_dpo(
    input_path: Input,
    output: Output,
    parent: Annotated[Path, typer.Option(help="Checkpoint to start from, also the reference.")],
    preset: Preset = "demo",
    overrides: Overrides = None,
    wait: Wait = True,
) -> None:
    """Train on preferences.parquet, or on the pairs of trajectories.parquet."""
    with _single(preset, overrides, wait) as config:
        from flows import single

        _said(single.train_dpo(config, input_path, output, parent))


@app.command()
def search(
    output: Output,
    agent: Annotated[
        str,
        typer.Option(
            help="A model's name, or a checkpoint's folder; raw and m0 are without states."
        ),
    ] = "m1",
    user: Annotated[str, typer.Option(help="Who plays the user, likewise.")] = "m1",
    compare_strategies: Annotated[
        bool, typer.Option(help="All strategies at the same number of tokens: strategies.json.")
    ] = False,
    preset: Preset = "demo",
    overrides: Overrides = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Self-play search from the search half of the situations: trajectories.parquet."""
    with _single(preset, overrides, wait) as config:
        from flows import single

        if not compare_strategies:
            _said(single.search(config, agent, user, output))
            return
        rows = single.compare_strategies(config, agent, user, output)
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))  # noqa: T201
    else:
        from flows.strategies import strategy_table

        out.print(strategy_table(rows))


@judge_app.command("run")
def judge_run(
    rollouts_a: Annotated[Path, typer.Argument(help="trajectories.parquet of the first model.")],
    rollouts_b: Annotated[Path, typer.Argument(help="trajectories.parquet of the second.")],
    output: Output,
    model_a: Annotated[str, typer.Option(help="Name of the first model.")] = "a",
    model_b: Annotated[str, typer.Option(help="Name of the second model.")] = "b",
    preset: Preset = "demo",
    overrides: Overrides = None,
    wait: Wait = True,
) -> None:
    """Judge two models' conversations, in both orders: judgements.parquet."""
    with _single(preset, overrides, wait) as config:
        from flows import single

        names = (model_a, model_b)
        _said(single.judge_run(config, (rollouts_a, rollouts_b), names, output))


@judge_app.command("stats")
def judge_stats(
    file: Annotated[Path, typer.Argument(help="Judgements: Parquet, a folder of it, or JSONL.")],
    bootstrap_samples: int = 10_000,
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """The win-rate table of a judgements file."""
    from sage_core.evaluation.winrate import read_judgements, summarise

    summaries = summarise(read_judgements(file), bootstrap_samples=bootstrap_samples, seed=seed)
    if as_json:
        print(json.dumps([asdict(row) for row in summaries], indent=2))  # noqa: T201
    else:
        from flows.run import win_rate_table

        out.print(win_rate_table([asdict(row) for row in summaries]))


@contextmanager
def _single(preset: str, overrides: list[str] | None, wait: bool) -> Iterator["PipelineConfig"]:
    """The settings of a stage that runs by itself, with its environment and the lock of the home,
    into which m0 and what servers answer are written."""
    from flows import environment
    from sage_core.config.loading import load_config
    from tasks import home

    config = load_config(preset, overrides or ())
    with home.held(wait=wait):
        environment.prepare(quiet=True)
        yield config


def _said(path: Path) -> None:
    out.print(str(path), soft_wrap=True, highlight=False)


def _with_overrides(tree: dict[str, Any], overrides: list[str] | None) -> dict[str, Any]:
    from sage_core.config.loading import apply_override

    for override in overrides or ():
        apply_override(tree, override)
    return tree


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    main()
