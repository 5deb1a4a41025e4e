"""Message lists, however their fields are called, as dialogues.

Roles are kept, so a conversation may open with the assistant. Messages of the system, of tools and
calls of tools are left out; consecutive messages of one role are one turn, joined by a line feed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import PurePath
from typing import Any

import orjson

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.lines import uncompressed
from sage_core.corpus.readers.containers import Row, knows_json, read_json_rows
from sage_core.corpus.readers.fields import FieldError, identifier, text, wrong
from sage_core.corpus.readers.reader import Source
from sage_core.corpus.readers.roles import SYSTEM, role_of
from sage_core.corpus.records import BadRecord, Record
from sage_core.schema import Dialogue, Message

__all__ = ["SYSTEM", "Layout", "conversation", "dialogue", "knows_json", "read_json"]

IDENTIFIERS = ("dialogue_id", "id", "conversation_id", "conversation_hash", "uuid")
_CALLS = ("tool_calls", "function_call")
_TEXT_PARTS = ("text", "input_text", "output_text")

Turn = tuple[str, str]  # role and text


@dataclass(frozen=True)
class Layout:
    """The names of the fields, and of the roles: ``user``, ``assistant`` or ``SYSTEM``; the usual
    names of roles need no entry."""

    messages: str
    role: str
    content: str
    roles: Mapping[str, str] = field(default_factory=dict)
    id: str = ""


def read_json(source: Source, config: CorpusConfig, layout: Layout) -> Iterator[Record]:
    """The conversations of a file of JSON lines, of a JSON array, or of objects."""
    rows = read_json_rows(source.file, source.name, config.max_record_bytes)
    make = partial(conversation, layout=layout, name=source.name, max_bytes=config.max_record_bytes)
    return records_of(rows, make)


def records_of(
    rows: Iterable[Row | BadRecord], make: Callable[[dict[str, Any], int], Record]
) -> Iterator[Record]:
    """``make(object, number)`` of each row; where it raises FieldError, a BadRecord."""
    for row in rows:
        if isinstance(row, BadRecord):
            yield row
            continue
        try:
            yield make(row.record, row.number)
        except FieldError as error:
            yield row.refused(error.reason, error.detail)


def conversation(
    record: dict[str, Any], number: int, layout: Layout, name: str, max_bytes: int
) -> Dialogue:
    """The dialogue of one record of the source ``name``.

    Raises:
        FieldError: ``missing_field``, ``wrong_type``, ``unknown_role``, or as :func:`dialogue`
            does.
    """
    messages = listed(record.get(layout.messages), layout.messages)
    turns = said(messages, layout, layout.messages)
    return dialogue(
        record, number, joined(turns), name, max_bytes, has_roles=True, id_column=layout.id
    )


def listed(value: object, column: str) -> list[Any]:
    """The list in a column, which may hold it as JSON.

    Raises:
        FieldError: ``missing_field`` or ``wrong_type``.
    """
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise FieldError("wrong_type", f"'{column}' is a text that is no JSON") from None
    if not isinstance(value, list):
        raise wrong(value, column, "a list")
    return value


def said(messages: Sequence[object], layout: Layout, column: str) -> list[Turn]:
    """What user and assistant said, without all other messages.

    Raises:
        FieldError: as :func:`conversation`.
    """
    turns = (_turn(each, layout, f"{column}[{at}].") for at, each in enumerate(messages))
    return [turn for turn in turns if turn]


def joined(turns: Iterable[Turn]) -> list[Message]:
    """Messages, with consecutive ones of a role as one."""
    return [
        Message(role, "\n".join([said for _, said in of_role]))
        for role, of_role in groupby(turns, itemgetter(0))
    ]


def dialogue(
    record: dict[str, Any],
    number: int,
    messages: Sequence[Message],
    name: str,
    max_bytes: int,
    *,
    has_roles: bool,
    id_column: str = "",
) -> Dialogue:
    """``messages`` under the record's ``dialogue_id`` or ``id`` and ``thread_id``, or default ones.

    Raises:
        FieldError: ``no_turns``, ``wrong_type`` for an identifier that is none, or ``too_long``:
            a table's rows come whole, so their length is known only here.
    """
    if not messages:
        raise FieldError("no_turns", "nobody says anything")
    if (length := sum(len(message.content) for message in messages)) > max_bytes:
        raise FieldError("too_long", f"{length} characters; corpus.max_record_bytes = {max_bytes}")
    names = (id_column,) if id_column else IDENTIFIERS
    dialogue_id = identifier(record, *names) or f"{name}-{number}"
    thread_id = identifier(record, "thread_id") or dialogue_id
    source = uncompressed(PurePath(name)).stem
    return Dialogue(dialogue_id, source, thread_id, tuple(messages), has_roles=has_roles)


def _turn(message: object, layout: Layout, at: str) -> Turn | None:
    if not isinstance(message, dict):
        raise wrong(message, at.removesuffix("."), "an object")
    role = role_of(text(message, layout.role, at), layout.roles, f"{at}{layout.role}")
    content = message.get(layout.content)
    if role == SYSTEM or (content in (None, "") and any(message.get(call) for call in _CALLS)):
        return None
    return role, content_text(content, f"{at}{layout.content}")


def content_text(content: object, field: str) -> str:
    """The text of a message: its own, or that of its parts.

    Raises:
        FieldError: ``missing_field``, ``wrong_type``, or ``no_text`` for parts without a text.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong(content, field, "a text or a list of parts")
    texts = []
    kinds = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and part.get("type", "text") in _TEXT_PARTS:
            texts.append(text(part, "text", f"{field}."))
        else:
            kinds.append(str(part.get("type")) if isinstance(part, dict) else type(part).__name__)
    if not texts:
        raise FieldError("no_text", f"'{field}' has no part of text, only {', '.join(kinds)}")
    return "\n".join(texts)
