"""``sage compare``: finished runs side by side."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.options import AsJson, Wait
from flows.commands.output import out, print_json

if TYPE_CHECKING:
    from sage_core.evaluation.winrate import PairSummary
    from tasks.runs import RecordedRun


def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Runs: the start of a report's key, 'last', a report's folder, or another SAGE "
            "home. Without any, the runs of this home are listed."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for compare.html and compare.json.")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(help="Judge this model of every run against the first run's, such as m2."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="With --judge: override a setting of the first run."),
    ] = None,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Compare finished runs: settings that differ, models, win rates, costs."""
    from flows.commands import compare_tables as tables
    from sage_core.errors import ConfigError
    from tasks import runs as recorded

    if not runs:
        found = recorded.finished()
        if as_json:
            print_json([tables.listed(each) for each in found])
        else:
            out.print(tables.run_table(found))
        return
    if len(runs) < 2:
        raise ConfigError(
            f"'{runs[0]}' is one run; give two or more, or none to list the runs of this home"
        )
    if overrides and not judge:
        raise ConfigError("--set changes the settings of --judge; give --judge MODEL with it")

    from sage_core.evaluation import comparison

    chosen = [recorded.find(each) for each in runs]
    names = comparison.run_names(len(chosen))
    across = _judge(chosen, names, judge, overrides or (), wait=wait) if judge else []
    read = [recorded.read(each, name) for each, name in zip(chosen, names, strict=True)]
    result = comparison.compare(read, across)
    page = None
    if output is not None:
        from sage_core.storage import write_json

        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "compare.json", tables.as_dict(result))
        page = output / "compare.html"
        page.write_text(comparison.render_comparison(result), encoding="utf-8")
    if as_json:
        print_json(tables.as_dict(result))
        return
    out.print(*tables.all_tables(result), sep="\n")
    if page:
        out.print(f"page: {page}", soft_wrap=True, highlight=False)


def _judge(
    runs: Sequence["RecordedRun"],
    names: Sequence[str],
    model: str,
    overrides: Sequence[str],
    *,
    wait: bool,
) -> list["PairSummary"]:
    """The verdicts of the first run's judges on its ``model`` and that of every other run."""
    from flows import environment
    from sage_core.config.loading import apply_override, validate_config
    from tasks import home

    settings = deepcopy(runs[0].record["config"])
    for override in overrides:
        apply_override(settings, override)
    config = validate_config(settings)
    rollouts = {
        f"{model} of {name}": run.rollouts(model) for name, run in zip(names, runs, strict=True)
    }
    with home.held(wait=wait):
        environment.prepare(quiet=True)

        from flows import pipeline
        from sage_core.evaluation.winrate import summarise
        from sage_core.schema import Judgement
        from sage_core.steps.names import JUDGEMENTS
        from sage_core.storage import read_rows

        first, *others = rollouts
        pairs = [(first, other) for other in others]
        made = pipeline.judge_pairs(config, pairs, rollouts, pipeline.base_model(config))
        judged = [
            row
            for ref in made
            for row in read_rows(home.store().folder(ref) / JUDGEMENTS, Judgement)
        ]
    return summarise(judged)
