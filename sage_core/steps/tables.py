"""Rows of several artefacts, one after the other."""

from collections.abc import Sequence
from pathlib import Path

from sage_core.answers.tally import joined
from sage_core.steps.base import Context
from sage_core.steps.names import ANSWERS
from sage_core.storage import ArtifactRef, Row, read_json, read_rows, write_json, write_rows


def rows_of(
    context: Context, parts: Sequence[ArtifactRef], name: str, row_type: type[Row]
) -> list[Row]:
    """The rows of the table ``name`` of all parts, in their order."""
    return [row for part in parts for row in read_rows(context.folder(part) / name, row_type)]


def concatenate(
    context: Context, parts: Sequence[ArtifactRef], name: str, row_type: type[Row], folder: Path
) -> None:
    """Write the rows of the table ``name`` of all parts into ``folder``."""
    write_rows(folder / name, rows_of(context, parts, name, row_type), row_type)


def join_answers(context: Context, parts: Sequence[ArtifactRef], folder: Path) -> None:
    """Write how many answers of all parts were read into ``folder``."""
    tallies = [read_json(context.folder(part) / ANSWERS) for part in parts]
    write_json(folder / ANSWERS, joined(tallies).as_dict())
