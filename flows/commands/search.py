"""``sage search``: self-play search, and the comparison of its strategies."""

from dataclasses import asdict
from typing import Annotated

import typer

from flows.commands.home import locked_home
from flows.commands.options import AsJson, Output, Overrides, Preset, Wait
from flows.commands.output import out, print_answers, print_json, print_path


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
    """Self-play search from the search half of the situations; writes trajectories.parquet."""
    with locked_home(preset, overrides, wait) as config:
        from flows.commands import single_stages

        if not compare_strategies:
            print_path(single_stages.search(config, agent, user, output))
            print_answers(output)
            return
        rows = single_stages.compare_strategies(config, agent, user, output)
        print_answers(output)
    if as_json:
        print_json([asdict(row) for row in rows])
    else:
        from flows.commands.tables import strategy_table

        out.print(strategy_table(rows))
