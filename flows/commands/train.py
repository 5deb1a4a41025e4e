"""``sage train``: one checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.home import locked_home
from flows.commands.options import Input, InSplit, Output, Overrides, Preset, Wait, WhichSplit
from flows.commands.output import print_path

app = typer.Typer(no_args_is_help=True, help="Train one checkpoint on a file.")


@app.command()
def sft(
    input_path: Input,
    output: Output,
    parent: Annotated[
        Path | None, typer.Option(help="Checkpoint to continue from, with the settings refine.sft.")
    ] = None,
    states: Annotated[bool, typer.Option(help="Without states it is the model raw.")] = True,
    split: InSplit = WhichSplit.train,
    preset: Preset = "demo",
    overrides: Overrides = None,
    wait: Wait = True,
) -> None:
    """Train on sac.parquet, or on the selected dialogues of trajectories.parquet."""
    with locked_home(preset, overrides, wait) as config:
        from flows.commands import single_stages

        print_path(
            single_stages.train_sft(config, input_path, output, parent, split, states=states)
        )


@app.command()
def dpo(
    input_path: Input,
    output: Output,
    parent: Annotated[Path, typer.Option(help="Checkpoint to start from, also the reference.")],
    preset: Preset = "demo",
    overrides: Overrides = None,
    wait: Wait = True,
) -> None:
    """Train on preferences.parquet, or on the pairs of trajectories.parquet."""
    with locked_home(preset, overrides, wait) as config:
        from flows.commands import single_stages

        print_path(single_stages.train_dpo(config, input_path, output, parent))
