"""Options that several commands take."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class WhichSplit(StrEnum):
    """Which dialogues of a table with the column ``split``."""

    train = "train"
    validation = "validation"
    test = "test"
    all = "all"


Preset = Annotated[str, typer.Option(help="A preset (tiny, demo, paper) or a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a setting: search.candidates=8")
]
Input = Annotated[Path, typer.Option("--input", help="A Parquet file.")]
Output = Annotated[Path, typer.Option(help="Folder for the result.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
InSplit = Annotated[
    WhichSplit, typer.Option("--split", help="Dialogues used, where the table has splits.")
]
Wait = Annotated[
    bool,
    typer.Option(help="While another process uses the SAGE home: wait, or end with exit code 2."),
]
