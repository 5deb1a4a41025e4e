"""``sage doctor``: the table of what a preset needs."""

from dataclasses import asdict

import typer
from rich.markup import escape
from rich.table import Table

from flows.commands.options import AsJson, Overrides, Preset
from flows.commands.output import out, print_json


def doctor(preset: Preset = "demo", overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check what a preset needs: what is here, what is missing, and the fix for each.

    The requirements for GPUs, memory and disk are those of `sage plan`.
    """
    from flows import environment
    from sage_core.config.loading import load_config

    config = load_config(preset, overrides or ())
    environment.prepare(quiet=True)

    from flows.commands.doctor_checks import examine

    checks = examine(config)
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        table = Table("", "What", "Found", "Fix", title=f"sage doctor: {preset}")
        for check in checks:
            mark = "[green]ok[/]" if check.ok else "[red]missing[/]"
            table.add_row(mark, check.what, escape(check.found), escape(check.fix))
        out.print(table)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)
