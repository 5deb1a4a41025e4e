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
def calibrate(
    human: Annotated[
        Path,
        typer.Option(
            help="Preferences of people: MT-bench, LLMBar, PandaLM, or chosen and rejected replies."
        ),
    ],
    output: Output,
    items: Annotated[
        int | None, typer.Option(help="Items that are judged; 0 = all. [evaluation.human_items]")
    ] = None,
    preset: Preset = "demo",
    overrides: Overrides = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """How far the configured judges agree with people: calibration.json and judgements.parquet."""
    given = [*(overrides or []), f"evaluation.human={human}"]
    given += [] if items is None else [f"evaluation.human_items={items}"]
    with locked_home(preset, given, wait) as config:
        from flows.commands import single_stages
        from flows.commands.tables import calibration_table

        found = single_stages.judge_calibrate(config, output)
        if as_json:
            print_json([asdict(each) for each in found])
            return
        out.print(calibration_table(found))
        for each in found:
            out.print(f"{each.judge}: {each.in_words}", highlight=False)
        for reason, count in found[0].unused.items():
            out.print(f"{count:,} of {found[0].records:,} records not used: {reason}")


@app.command()
def stats(
    file: Annotated[Path, typer.Argument(help="Judgements: Parquet, a folder of it, or JSONL.")],
    rollouts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL=FILE",
            help="A model's trajectories.parquet, to control for length and style; repeatable.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The win-rate table of a judgements file, and what is known of its judges."""
    from sage_core.evaluation.winrate import read_judgements, summarise

    rows = read_judgements(file)
    summaries = summarise(rows)
    if as_json:
        print_json([asdict(row) for row in summaries])
    elif not rows:
        out.print(f"'{file}' has no judgements")
    else:
        from flows.commands.judge_statistics import print_statistics

        print_statistics(rows, summaries, rollouts or [])
