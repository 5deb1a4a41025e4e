"""``sage steer``: how far a model can be steered."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from flows.commands.options import AsJson, Overrides, Preset
from flows.commands.output import out, print_json
from flows.commands.tables import with_interval

app = typer.Typer(no_args_is_help=True, help="Steering of the states.")


@app.command()
def report(
    model: Annotated[
        str, typer.Option(help="A checkpoint of the SAGE home (m1, m2, ..., dpo) or its folder.")
    ],
    output: Annotated[Path, typer.Option(help="Folder for report.html and report.json.")],
    preset: Preset = "demo",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model's steering: dose-response, faithfulness, replies under forced values."""
    from flows import environment
    from sage_core.config.loading import load_config

    config = load_config(preset, overrides or ())
    environment.prepare(quiet=True)

    from flows import pipeline
    from sage_core.errors import ConfigError
    from sage_core.evaluation import steering
    from sage_core.evaluation.report import render_steering
    from sage_core.evaluation.summary import read_steering, steering_data
    from sage_core.steps import configured
    from sage_core.steps.base import writes_states
    from sage_core.steps.names import STEERING
    from sage_core.storage import read_json, write_json
    from tasks import checkpoints, home
    from tasks.caching import make

    settings = config.steering_report
    steering.check(settings)
    # By name first: a home without a run has no m0 to find.
    name = "" if writes_states(model) else model
    found = None if name else checkpoints.find(model, config.model)
    if found is None or not found.states:
        raise ConfigError(
            f"'{name or model}' writes no states, so there is nothing to steer; choose m1, m2, "
            "..., or dpo"
        )
    output.mkdir(parents=True, exist_ok=True)
    with home.held():
        held_out = pipeline.situations(config, "evaluation", settings.situations)
        step = configured.steering_evidence(config, checkpoints.model_of(found), held_out)
        result = read_json(home.store().folder(make(step, found.name)) / STEERING)
    write_json(output / "report.json", result)
    page = render_steering(steering_data(config, read_steering(result)))
    (output / "report.html").write_text(page, encoding="utf-8")
    if as_json:
        print_json(result)
        return
    out.print(_doses(result), _faithfulness(result))
    out.print(f"report: {output / 'report.html'}", soft_wrap=True, highlight=False)


def _doses(result: Mapping[str, Any]) -> Table:
    table = Table("boosted", "boost", "share [95%]", "n", title="Replies with the boosted value")
    for curve in result["dose_responses"]:
        for dose in curve["doses"]:
            share = dose["share"]
            table.add_row(
                f"{curve['field']}={curve['keyword']}",
                f"{dose['boost']:g}",
                with_interval(share, "{:.0%}"),
                str(share["n"]),
            )
    return table


def _faithfulness(result: Mapping[str, Any]) -> Table:
    table = Table(
        "field", "actions", "nats per token [95%]", "recovered [95%]", "n",
        title="Replies to one action or another",
    )  # fmt: skip
    for faithful in result["faithfulness"]:
        rows = [(f"{each['a']} or {each['b']}", each) for each in faithful["contrasts"]]
        rows.append((f"all {len(faithful['values'])}", faithful))
        for actions, row in rows:
            table.add_row(
                faithful["field"],
                actions,
                with_interval(row["llr_per_token"], "{:+.3f}"),
                with_interval(row["recovered"], "{:.0%}"),
                str(row["recovered"]["n"]),
            )
    return table
