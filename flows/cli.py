"""The command line, ``sage``: registers the commands of :mod:`flows.commands`."""

import sys

import typer
from rich.console import Console
from rich.markup import escape

from flows import environment
from flows.commands import corpus, judge, steer, train
from flows.commands.annotate import annotate
from flows.commands.benchmark import benchmark
from flows.commands.chat import chat
from flows.commands.compare import compare
from flows.commands.deploy import deploy
from flows.commands.doctor import doctor
from flows.commands.export import export
from flows.commands.gc import gc
from flows.commands.plan import plan
from flows.commands.promote import promote, rollback
from flows.commands.retrain import retrain
from flows.commands.run import run
from flows.commands.search import search
from flows.commands.ui import ui
from sage_core.errors import SageError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="State-action augmented dialogue models: train, search, judge, compare.",
)
COMMANDS = (
    run, plan, doctor, annotate, search, benchmark, compare, chat, export,
    ui, deploy, retrain, promote, rollback, gc,
)  # fmt: skip
for command in COMMANDS:
    app.command()(command)
for name, group in (("corpus", corpus), ("train", train), ("judge", judge), ("steer", steer)):
    app.add_typer(group.app, name=name)


def main() -> None:
    """Run the command line; wrong input ends with one message and exit code 2.

    What goes wrong while an error of ours is reported, such as a Prefect server that cannot write
    it down because the disk is full, must not hide it.
    """
    environment.quieten()
    try:
        app()
    except Exception as error:
        ours = first_of_ours(error)
        if ours is None:
            raise
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(ours))}", highlight=False)
        sys.exit(2)


def first_of_ours(error: BaseException | None) -> SageError | None:
    """The error, or what was being handled when it was raised, if that is one of ours."""
    while error is not None and not isinstance(error, SageError):
        error = error.__context__
    return error


if __name__ == "__main__":
    main()
