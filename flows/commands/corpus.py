"""``sage corpus``: training dialogues."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from flows.commands.options import AsJson, Overrides, Wait
from flows.commands.output import out, print_json
from flows.runners import Runner
from sage_core.corpus.readers import READERS

app = typer.Typer(no_args_is_help=True, help="Training dialogues.")

# Of a data set that is built for use elsewhere; a run of the pipeline would leave it unread.
_HELD_OUT = {"validation_share": 0.02, "test_share": 0.02}


@app.command()
def build(
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
    from sage_core.config.loading import apply_override, validate_config

    tree: dict[str, Any] = {"corpus": {"reader": reader, "input": input_path, **_HELD_OUT}}
    for override in overrides or ():
        apply_override(tree, override)
    config = validate_config(tree).corpus
    if runner is None:
        from sage_core.steps import local

        funnel = local.build_corpus(config, output, processes or os.cpu_count() or 1)
    else:
        from flows import environment
        from tasks import home

        with home.held(wait=wait):
            environment.prepare(quiet=True)
            environment.check_prefect_database()

            from flows.corpus import run_corpus

            funnel = run_corpus(config, output, runner)
    if as_json:
        print_json(funnel)
        return
    table = Table("step", "kept", "dropped", "quarantined")
    for step in funnel:
        quarantined = str(step["quarantined"]) if "quarantined" in step else ""
        table.add_row(step["step"], str(step["kept"]), str(step["dropped"]), quarantined)
    out.print(table)
    for step in funnel:
        if "not_applied" in step:
            out.print(
                f"'{step['step']}' did not apply to {step['not_applied']} dialogues, which are not "
                "in English (corpus.language); they passed it"
            )
