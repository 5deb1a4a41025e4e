"""Message lists, however their fields are called, as dialogues.

Roles are kept, so a conversation may open with the assistant. Messages of the system, of tools,
calls of tools and messages without a text are left out; consecutive messages of one role are one
turn, joined by a line feed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import PurePath
from typing import Any

import orjson

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.lines import uncompressed
from sage_core.corpus.readers.containers import knows_json, read_json_rows
from sage_core.corpus.readers.fields import FieldError, identifier, text, wrong
from sage_core.corpus.readers.reader import Source
from sage_core.corpus.readers.roles import SYSTEM, role_of
from sage_core.corpus.readers.rows import records_of
from sage_core.corpus.records import Record
from sage_core.schema import Dialogue, Message

__all__ = ["SYSTEM", "Layout", "conversation", "dialogue", "knows_json", "read_json"]

IDENTIFIERS = ("dialogue_id", "id", "conversation_id", "conversation_hash", "uuid")
BLANK = "blank"
_CALLS = ("tool_calls", "function_call")
_TEXT_PARTS = ("text", "input_text", "output_text")

Turn = tuple[str, str]  # role and text; of SYSTEM, which is left out, what it is instead


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
    return dialogue(record, number, turns, name, max_bytes, has_roles=True, id_column=layout.id)


def listed(value: object, column: str) -> list[Any]:
    """The list in a column, which may hold it as JSON.

    Raises:
        FieldError: ``missing_field`` or ``wrong_type``.
    """
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise FieldError("wrong_type", f"'{column}' is a text, but not JSON") from None
    if not isinstance(value, list):
        raise wrong(value, column, "a list")
    return value


def said(messages: Sequence[object], layout: Layout, column: str) -> list[Turn]:
    """The messages as turns.

    Raises:
        FieldError: as :func:`conversation`.
    """
    return [_turn(each, layout, f"{column}[{at}].") for at, each in enumerate(messages)]


def taken(turns: Iterable[Turn]) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """The messages of a dialogue, and what is left out (:attr:`Dialogue.left_out`).

    All readers of messages have this one rule: turns of SYSTEM and turns without a text are left
    out, then consecutive ones of a role are one message.
    """
    spoken: list[Turn] = []
    left_out: list[str] = []
    for role, words in turns:
        if role == SYSTEM:
            left_out.append(words)
        elif words.strip():
            spoken.append((role, words))
        else:
            left_out.append(BLANK)
    messages = [
        Message(role, "\n".join([words for _, words in of_role]))
        for role, of_role in groupby(spoken, itemgetter(0))
    ]
    return tuple(messages), tuple(left_out)


def dialogue(
    record: dict[str, Any],
    number: int,
    turns: Iterable[Turn],
    name: str,
    max_bytes: int,
    *,
    has_roles: bool,
    id_column: str = "",
) -> Dialogue:
    """The turns that are :func:`taken`, under the record's ``dialogue_id`` or ``id`` and
    ``thread_id``, or default ones.

    Raises:
        FieldError: ``no_turns``, ``wrong_type`` for an identifier that is none, or ``too_long``:
            a table's rows come whole, so their length is known only here.
    """
    messages, left_out = taken(turns)
    if not messages:
        raise FieldError("no_turns", "nobody says anything")
    if (length := sum(len(message.content) for message in messages)) > max_bytes:
        raise FieldError("too_long", f"{length} characters; corpus.max_record_bytes = {max_bytes}")
    names = (id_column,) if id_column else IDENTIFIERS
    dialogue_id = identifier(record, *names) or f"{name}-{number}"
    thread_id = identifier(record, "thread_id") or dialogue_id
    source = uncompressed(PurePath(name)).stem
    return Dialogue(
        dialogue_id, source, thread_id, messages, has_roles=has_roles, left_out=left_out
    )


def _turn(message: object, layout: Layout, at: str) -> Turn:
    if not isinstance(message, dict):
        raise wrong(message, at.removesuffix("."), "an object")
    name = text(message, layout.role, at)
    role = role_of(name, layout.roles, f"{at}{layout.role}")
    content = message.get(layout.content)
    if role == SYSTEM:
        return SYSTEM, name
    if content in (None, "") and any(message.get(call) for call in _CALLS):
        return SYSTEM, "call of a tool"
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
