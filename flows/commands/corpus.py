"""``sage corpus``: training dialogues."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from flows.commands.options import AsJson, Overrides, Wait
from flows.commands.output import out, print_json
from flows.runners import Runner
from sage_core.corpus.readers import READERS

if TYPE_CHECKING:
    from sage_core.corpus.inspection import Inspection

_LEFT_OUT = {"system": "left out"}
_TURNS = 8  # of a dialogue that are shown
_WIDTH = 160  # characters of a turn that are shown
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
    _say_what_is_missing(funnel[0], output)


def _say_what_is_missing(read: Any, output: Path) -> None:
    """What could not be read, with the first record of each reason, and files without a record."""
    from sage_core.corpus.ingest import load_quarantine

    shown: set[str] = set()
    for bad in load_quarantine(output):
        if bad.reason not in shown:
            out.print(f"quarantined, {bad.reason}: {bad}", markup=False, soft_wrap=True)
        shown.add(bad.reason)
    if left_out := read.get("left_out"):
        out.print(_messages_left_out(left_out), markup=False, soft_wrap=True)
    if empty := read.get("empty"):
        out.print(f"without a record: {', '.join(empty)}", markup=False, soft_wrap=True)


def _messages_left_out(counts: Mapping[str, int]) -> str:
    shown = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f"{sum(counts.values())} messages left out of dialogues: {shown}"


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="File or folder.")],
    reader: Annotated[
        str, typer.Option(help=f"{READERS.choices}; default: recognised from the content.")
    ] = "",
    overrides: Overrides = None,
    limit: Annotated[int, typer.Option(min=0, help="Records looked at; 0 = all.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Show what is recognised, three dialogues as they would be read, and what would be lost."""
    from dataclasses import asdict

    from sage_core.config.loading import apply_override, validate_config
    from sage_core.corpus.inspection import inspect as look
    from sage_core.corpus.inspection import recognise_reader

    tree: dict[str, Any] = {"corpus": {"reader": reader or recognise_reader(file), "input": file}}
    for override in overrides or ():
        apply_override(tree, override)
    seen = look(validate_config(tree).corpus, limit)
    if as_json:
        print_json(asdict(seen))
    else:
        _show(seen)
    if not seen.examples:
        raise typer.Exit(2)


def _show(seen: "Inspection") -> None:
    def say(text: str) -> None:
        out.print(text, markup=False, highlight=False, soft_wrap=True)

    layout = seen.recognised
    say(f"reader: {seen.reader}, {seen.files} file(s)")
    say(f"layout: {layout.layout if layout else 'not known'}")
    for title, names in (("columns", layout.columns), ("roles", layout.roles)) if layout else ():
        if names:
            shown = (f"{each} = {_LEFT_OUT.get(name, name)}" for each, name in names.items())
            say(f"{title}: {', '.join(shown)}")
    for dialogue in seen.examples:
        roles = "" if dialogue.has_roles else " (the first to speak is taken as the user)"
        say(f"\n{dialogue.dialogue_id}{roles}")
        for message in dialogue.messages[:_TURNS]:
            say(f"  {message.role}: {_short(message.content)}")
        if (more := len(dialogue.messages) - _TURNS) > 0:
            say(f"  … and {more} more turns")
    say(f"\n{seen.read} records read{'' if seen.complete else ', of more (--limit)'}")
    for reason, (count, first) in seen.bad.items():
        say(f"  {count} cannot be read, {reason}; the first: {first}")
    if seen.left_out:
        say(f"  {_messages_left_out(seen.left_out)}")
    for reason, count in seen.posts_dropped.items():
        say(f"  {count} posts dropped: {reason}")
    for rule, count in seen.dropped.items():
        say(f"  {count} dialogues dropped by the rule '{rule}'")
    for rule, count in seen.not_applied.items():
        say(f"  {count} dialogues passed '{rule}', which does not apply to their language")
    say(f"  {seen.kept} dialogues kept, before duplicates are looked for")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _WIDTH else f"{line[:_WIDTH]}…"
