"""``sage benchmark``: which abilities a model has kept."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from flows.commands.home import locked_home
from flows.commands.options import AsJson, Output, Overrides, Preset, Wait
from flows.commands.output import out, print_json, print_path


def benchmark(
    model: Annotated[
        str, typer.Argument(help="A model of the SAGE home (m0, m1, ..., dpo) or its folder.")
    ],
    output: Output,
    tasks: Annotated[
        str | None,
        typer.Option(help="Benchmarks, with commas between; 'paper' = the ten of Table 2."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Documents of each benchmark; 0 = all.", min=0)
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Another model, asked the same documents; such as m0.")
    ] = None,
    preset: Preset = "demo",
    overrides: Overrides = None,
    as_json: AsJson = False,
    wait: Wait = True,
) -> None:
    """Run a model on benchmarks by lm-eval: benchmarks.json, and each document's values."""
    settings = [*(overrides or ())]
    if tasks is not None:
        settings.append(f"benchmarks.tasks=[{tasks}]")
    if limit is not None:
        settings.append(f"benchmarks.limit={limit}")
    with locked_home(preset, [*settings, "benchmarks.if_missing=error"], wait) as config:
        from flows.commands import single_stages

        found = single_stages.benchmark(config, model, against, output)
    scores = [
        {key: score[key] for key in ("task", "metric", "value", "stderr", "n", "version", "split")}
        for score in found["scores"]
        if score["model"] == found["models"][-1]
    ]
    if as_json:
        print_json(scores)
        return
    out.print(_table(scores, found["changes"]))
    for task in found["tasks"]:
        out.print(f"{task['title']}: licence of the data: {task['licence']}", highlight=False)
        for note in task["notes"]:
            out.print(note, highlight=False)
    print_path(output)


def _table(scores: Sequence[Mapping[str, Any]], changes: Sequence[Mapping[str, Any]]) -> Table:
    by_metric = {(each["task"], each["metric"]): each for each in changes}
    table = Table("benchmark", "metric", "value", "n", "split", box=box.SIMPLE_HEAD)
    if changes:
        for heading in ("change", "gained / lost", "p (Holm)"):
            table.add_column(heading)
    for score in scores:
        error = "" if score["stderr"] is None else f" ± {score['stderr']:.4f}"
        row = [score["task"], score["metric"], f"{score['value']:.4f}{error}", str(score["n"]),
               score["split"]]  # fmt: skip
        change = by_metric.get((score["task"], score["metric"]))
        if change:
            relative = "-" if change["relative"] is None else f"{change['relative']:+.1%}"
            p = "-" if change["p_holm"] is None else f"{change['p_holm']:.3g}"
            row += [relative, f"{change['gained']} / {change['lost']}", p]
        table.add_row(*row)
    return table
