"""Tables that a user gives, as artefacts."""

from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sage_core.corpus.names import unique
from sage_core.corpus.records import DIALOGUES, SYSTEM
from sage_core.errors import DataError
from sage_core.schema import (
    AnnotatedDialogue,
    AnnotatedTurn,
    Dialogue,
    Message,
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
_KNOWN_ROLES = ("user", "assistant", SYSTEM)


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
        row_type = _ROWS[self.table]
        rows = of_split(read_rows(self.path, row_type), self.path, self.split)
        if row_type is Dialogue:
            rows = [replace(row, messages=_turns(row, self.path)) for row in rows]
        if row_type in (Dialogue, AnnotatedDialogue):
            rows = unique(rows)
        write_rows(folder / self.table, rows, row_type)


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
                row.split,
            )
            for row in read_rows(context.folder(self.dialogues) / DIALOGUES, Dialogue)
        ]
        write_rows(folder / SAC, rows, AnnotatedDialogue)


def _turns(dialogue: Dialogue, path: Path) -> tuple[Message, ...]:
    """Its messages as readers give them: system messages are left out, and those of one role that
    follow each other are one.

    Raises:
        DataError: a role is none of the three.
    """
    if unknown := {message.role for message in dialogue.messages} - set(_KNOWN_ROLES):
        raise DataError(
            f"'{path}', dialogue '{dialogue.dialogue_id}': messages have the role "
            f"{', '.join(map(repr, sorted(unknown)))}; the roles are user, assistant, and system, "
            "whose messages are left out"
        )
    spoken = (message for message in dialogue.messages if message.role != SYSTEM)
    return tuple(
        Message(role, "\n".join(message.content for message in said))
        for role, said in groupby(spoken, lambda message: message.role)
    )


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
