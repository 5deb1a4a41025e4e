"""Dialogues under way, saved after every turn, so that a search that was killed goes on there.

The dialogues that are played together are one file: draws do not depend on what is drawn beside
them, but the rounding of a batch does, so all of them go on from the same turn.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from sage_core.search.dialogue import Dialogue
from sage_core.storage import digest

_DIALOGUES = TypeAdapter(list[Dialogue])


class SavedDialogues:
    """The file of some dialogues in ``folder``, named after their lines; without a folder nothing
    is saved."""

    def __init__(self, folder: Path | None, dialogues: Sequence[Dialogue]) -> None:
        names = digest([dialogue.line for dialogue in dialogues])
        self._path = folder / f"{names[:32]}.json" if folder else None

    def load(self) -> tuple[int, list[Dialogue]] | None:
        """The first turn that is not played yet, and the dialogues; None where there are none, or
        the file is not whole."""
        if self._path is None:
            return None
        try:
            saved = json.loads(self._path.read_text(encoding="utf-8"))
            return int(saved["turn"]), _DIALOGUES.validate_python(saved["dialogues"])
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            return None

    def save(self, turn: int, dialogues: Sequence[Dialogue]) -> None:
        """Replace the file at once."""
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        state = {"turn": turn, "dialogues": [asdict(dialogue) for dialogue in dialogues]}
        written = self._path.with_suffix(f".{os.getpid()}")
        written.write_text(json.dumps(state), encoding="utf-8")
        written.replace(self._path)
