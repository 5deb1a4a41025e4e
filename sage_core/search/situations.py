"""The situations that open simulated conversations."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args
from zlib import crc32

from sage_core.config.conversation import SituationsConfig
from sage_core.corpus.lines import TruncatedError, read_chunks
from sage_core.corpus.readers import empathetic_dialogues
from sage_core.errors import DataError
from sage_core.packaged import packaged
from sage_core.schema import Situation, Split


def situations(config: SituationsConfig, split: Split, limit: int) -> list[Situation]:
    """The situations of one half, in file order; ``limit`` spreads over the file, 0 = all.

    Raises:
        DataError: the file is missing, malformed, or has none of that half.
    """
    found = [situation for situation in _read(config) if situation.split == split]
    if not found:
        raise DataError(f"no situation has split '{split}'; the halves are search and evaluation")
    return _spread(found, limit)


def _read(config: SituationsConfig) -> list[Situation]:
    if config.path is None:
        source = "the embedded situations"
        text = packaged("data/situations.jsonl")
    else:
        source = f"situations.path = '{config.path}'"
        if not config.path.exists():
            raise DataError(
                f"{source} does not exist; set situations.path to EmpatheticDialogues (a folder "
                "with train.csv and test.csv, or one file) or to a JSON-lines file"
            )
        if config.path.is_dir() or empathetic_dialogues.knows(config.path):
            return list(_empathetic_dialogues(config.path))
        text = _text(config.path, source)
    found = [
        _situation(line, f"{source}, line {number}")
        for number, line in enumerate(text.split("\n"), start=1)
        if line.strip()
    ]
    halves = get_args(Split)
    for situation in found:
        if situation.split not in halves:
            raise DataError(
                f"{source}: the split of '{situation.situation_id}' is '{situation.split}'; "
                f"choose one of {', '.join(halves)}"
            )
    if len({situation.situation_id for situation in found}) != len(found):
        raise DataError(f"{source} uses a situation_id twice; give each situation its own")
    return found


def _text(path: Path, source: str) -> str:
    """The text of a file of situations, compressed or not."""
    try:
        return b"".join(read_chunks(path)).decode("utf-8")
    except TruncatedError:
        raise DataError(
            f"{source} ends early or is not compressed as its suffix says; give a whole file"
        ) from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        found = error.object[error.start : error.start + 1]
        raise DataError(
            f"{source}, line {line}, is not UTF-8 (the byte {found!r}); save the file as UTF-8"
        ) from None


def _situation(line: str, where: str) -> Situation:
    try:
        found = Situation(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{where}, is not a situation ({error}); each line is an object with "
            "situation_id, text, emotion and split"
        ) from None
    for field, value in vars(found).items():
        if not isinstance(value, str):
            raise DataError(f"{where}: {field} = {value!r} is not a text; write it in quotes")
    return found


def _empathetic_dialogues(path: Path) -> Iterator[Situation]:
    """Its situations with their labels: of a folder, ``train.*`` for search and ``test.*`` for
    evaluation; of one file, two halves by a hash of the conversation."""
    parts: dict[Split, list[Path]] = {"search": [path], "evaluation": [path]}
    if path.is_dir():
        parts = {"search": sorted(path.glob("train*")), "evaluation": sorted(path.glob("test*"))}
    for split, files in parts.items():
        for file in files:
            for conversation, text, emotion in empathetic_dialogues.read_situations(file):
                if path.is_dir() or _half(conversation) == split:
                    yield Situation(conversation, text, emotion, split)


def _half(conversation: str) -> Split:
    return "search" if crc32(conversation.encode()) % 2 else "evaluation"


def _spread(found: Sequence[Situation], limit: int) -> list[Situation]:
    """``limit`` items at even distances, so that few situations still cover many emotions."""
    if limit == 0 or limit >= len(found):
        return list(found)
    return [found[index * len(found) // limit] for index in range(limit)]
