"""``sage judge``: pairwise judging and its statistics."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.home import locked_home
from flows.commands.options import AsJson, Output, Overrides, Preset, Wait
from flows.commands.output import out, print_answers, print_json, print_path

app = typer.Typer(no_args_is_help=True, help="Pairwise judging.")


@app.command()
def run(
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
    with locked_home(preset, overrides, wait) as config:
        from flows.commands import single_stages

        names = (model_a, model_b)
        print_path(single_stages.judge_run(config, (rollouts_a, rollouts_b), names, output))
        print_answers(output)


@app.command()
def stats(
    file: Annotated[Path, typer.Argument(help="Judgements: Parquet, a folder of it, or JSONL.")],
    bootstrap_samples: int = 10_000,
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """The win-rate table of a judgements file."""
    from sage_core.evaluation.winrate import read_judgements, summarise

    summaries = summarise(read_judgements(file), bootstrap_samples=bootstrap_samples, seed=seed)
    if as_json:
        print_json([asdict(row) for row in summaries])
    else:
        from flows.commands.tables import win_rate_table

        out.print(win_rate_table([asdict(row) for row in summaries]))
