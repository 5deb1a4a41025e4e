"""Message lists, however their fields are called, as dialogues.

Roles are kept, so a conversation may open with the assistant. System messages are left out;
consecutive messages of one role are one turn, joined by a line feed.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import PurePath
from typing import Any

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.lines import read_chunks, read_lines, uncompressed
from sage_core.corpus.readers.arrays import holds_array, split_array
from sage_core.corpus.readers.fields import FieldError, identifier, json_records, text
from sage_core.corpus.readers.reader import Source
from sage_core.corpus.records import SYSTEM as SYSTEM  # a reader's layout names it
from sage_core.corpus.records import Record
from sage_core.schema import Dialogue, Message

_SUFFIXES = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class Layout:
    """The names of the fields, and of the roles: ``user``, ``assistant`` or ``SYSTEM``."""

    messages: str
    role: str
    content: str
    roles: Mapping[str, str]


def knows_json(path: PurePath) -> bool:
    """Whether a file of a folder is JSON or JSON lines, compressed or not."""
    return uncompressed(path).suffix.lower() in _SUFFIXES


def read_json(source: Source, config: CorpusConfig, layout: Layout) -> Iterator[Record]:
    """The conversations of a file of JSON lines, or of one JSON array in a file ``*.json``."""
    path, limit = source.file, config.max_record_bytes
    make = partial(conversation, layout=layout, name=source.name, max_bytes=limit)
    if uncompressed(path).suffix.lower() == ".json" and holds_array(path):
        items = split_array(read_chunks(path), source.name, limit)
        return json_records(items, source.name, make, unit="record")
    return json_records(read_lines(path, source.name, limit), source.name, make)


def conversation(
    record: dict[str, Any], number: int, layout: Layout, name: str, max_bytes: int
) -> Dialogue:
    """The dialogue of one record of the source ``name``.

    Raises:
        FieldError: ``missing_field``, ``wrong_type`` (also for an unknown role), or as
            :func:`dialogue` does.
    """
    messages = record.get(layout.messages)
    if not isinstance(messages, list):
        raise FieldError("missing_field" if messages is None else "wrong_type")
    turns = [_turn(message, layout) for message in messages]
    spoken = (turn for turn in turns if turn[0] != SYSTEM)
    joined = [
        Message(role, "\n".join(said for _, said in turn))
        for role, turn in groupby(spoken, lambda t: t[0])
    ]
    return dialogue(record, number, joined, name, max_bytes, has_roles=True)


def dialogue(
    record: dict[str, Any],
    number: int,
    messages: Sequence[Message],
    name: str,
    max_bytes: int,
    *,
    has_roles: bool,
) -> Dialogue:
    """``messages`` under the record's ``dialogue_id`` or ``id`` and ``thread_id``, or default ones.

    Raises:
        FieldError: ``no_turns``, ``wrong_type`` for an identifier that is none, or ``too_long``:
            a table's rows come whole, so their length is known only here.
    """
    if not messages:
        raise FieldError("no_turns")
    if sum(len(message.content) for message in messages) > max_bytes:
        raise FieldError("too_long")
    dialogue_id = identifier(record, "dialogue_id", "id") or f"{name}-{number}"
    thread_id = identifier(record, "thread_id") or dialogue_id
    source = uncompressed(PurePath(name)).stem
    return Dialogue(dialogue_id, source, thread_id, tuple(messages), has_roles=has_roles)


def _turn(message: object, layout: Layout) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise FieldError("wrong_type")
    role = layout.roles.get(text(message, layout.role))
    if role is None:
        raise FieldError("wrong_type")
    return role, text(message, layout.content)
