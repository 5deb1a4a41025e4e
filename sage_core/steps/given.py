"""Tables that a user gives, as artefacts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sage_core.corpus.records import DIALOGUES
from sage_core.errors import DataError
from sage_core.schema import (
    AnnotatedDialogue,
    AnnotatedTurn,
    Dialogue,
    PreferencePair,
    TrainingDialogue,
    Trajectory,
)
from sage_core.states import EMPTY
from sage_core.steps.base import Context, Step
from sage_core.steps.names import PREFERENCES, SAC, TRAINING, TRAJECTORIES
from sage_core.storage import ArtifactRef, Row, read_rows, write_rows

_ROWS: dict[str, type[Any]] = {
    DIALOGUES: Dialogue,
    SAC: AnnotatedDialogue,
    TRAINING: TrainingDialogue,
    TRAJECTORIES: Trajectory,
    PREFERENCES: PreferencePair,
}
_ALL = "all"


@dataclass(frozen=True, kw_only=True)
class GivenTable(Step):
    """A Parquet file or a folder of them.

    Attributes:
        source: the hash of its content.
        table: what it is called in artefacts.
        split: which of its rows, where it has that column; 'all' = every one.
    """

    name = "given"
    path: Path
    source: str
    table: str
    split: str = _ALL

    def run(self, folder: Path, context: Context) -> None:
        rows = read_rows(self.path, _ROWS[self.table])
        write_rows(folder / self.table, of_split(rows, self.path, self.split), _ROWS[self.table])


@dataclass(frozen=True, kw_only=True)
class Unannotated(Step):
    """Dialogues as they are in the place of annotated ones, for a model without states."""

    name = "unannotated"
    dialogues: ArtifactRef

    def run(self, folder: Path, context: Context) -> None:
        rows = [
            AnnotatedDialogue(
                row.dialogue_id,
                tuple(AnnotatedTurn.of(turn.role, turn.content, EMPTY) for turn in row.messages),
            )
            for row in read_rows(context.folder(self.dialogues) / DIALOGUES, Dialogue)
        ]
        write_rows(folder / SAC, rows, AnnotatedDialogue)


def of_split(rows: list[Row], path: Path, split: str) -> list[Row]:
    """Those of the table's rows that are in ``split``; all where it has no such column.

    Raises:
        DataError: none is.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if split == _ALL or not all("split" in pq.read_schema(file).names for file in files):
        return rows
    splits = [
        each for file in files for each in pq.read_table(file, columns=["split"])[0].to_pylist()
    ]
    found = [row for row, each in zip(rows, splits, strict=True) if each == split]
    if rows and not found:
        there = ", ".join(sorted(set(splits)))
        raise DataError(f"'{path}' has no dialogue in the split '{split}'; --split {there}, or all")
    return found
