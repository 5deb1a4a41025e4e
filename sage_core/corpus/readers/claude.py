"""Claude's data export (``conversations.json``): an array of conversations with ``uuid`` and
``chat_messages`` of ``sender`` (``human`` or ``assistant``), ``text`` and ``content``, a list of
parts.

Where messages name the one before (``parent_message_uuid``), the branch that ends in the last
message is read. Of ``content`` the text counts; without any, ``text``.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.readers.app_json import first_of, knows
from sage_core.corpus.readers.branches import branch
from sage_core.corpus.readers.containers import read_json_rows
from sage_core.corpus.readers.conversations import (
    Turn,
    content_text,
    dialogue,
    listed,
)
from sage_core.corpus.readers.fields import text, wrong
from sage_core.corpus.readers.reader import Reader, Recognised, Source
from sage_core.corpus.readers.roles import SYSTEM, role_of
from sage_core.corpus.readers.rows import records_of
from sage_core.corpus.records import Record
from sage_core.schema import Dialogue

_MESSAGES = "chat_messages"
_PARENT = "parent_message_uuid"


def read(source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The conversations of one export."""
    rows = read_json_rows(source.file, source.name, config.max_record_bytes)
    return records_of(rows, partial(_dialogue, source, config))


def recognise(source: Source, config: CorpusConfig) -> Recognised | None:
    """Whether it is an export."""
    if _MESSAGES not in first_of(source, ""):
        return None
    return Recognised(
        "a Claude export, the branch shown last of each conversation",
        {"messages": _MESSAGES, "role": "sender", "content": "content, or text"},
        {"human": "user", "assistant": "assistant"},
    )


def _dialogue(
    source: Source, config: CorpusConfig, record: dict[str, Any], number: int
) -> Dialogue:
    messages = listed(record.get(_MESSAGES), _MESSAGES)
    for at, message in enumerate(messages):
        if not isinstance(message, dict):
            raise wrong(message, f"{_MESSAGES}[{at}]", "an object")
    if messages and all(message.get(_PARENT) for message in messages):
        named = {str(message.get("uuid")): message for message in messages}
        messages = branch(named, str(messages[-1].get("uuid")), _PARENT)
    turns = [_turn(message, config, f"{_MESSAGES}[{at}].") for at, message in enumerate(messages)]
    return dialogue(
        record, number, turns, source.name, config.max_record_bytes, has_roles=True,
        id_column="uuid",
    )  # fmt: skip


def _turn(message: dict[str, Any], config: CorpusConfig, at: str) -> Turn:
    name = text(message, "sender", at)
    role = role_of(name, config.roles, f"{at}sender")
    if role == SYSTEM:
        return SYSTEM, name
    parts = message.get("content")
    shown = [
        part
        for part in (parts if isinstance(parts, list) else [])
        if isinstance(part, dict) and part.get("type") == "text"
    ]
    if shown:
        return role, content_text(shown, f"{at}content")
    return role, text(message, "text", at)


READER = Reader(
    read,
    knows,
    "*.json",
    reads="Claude's exports (`conversations.json`), the branch shown last",
    recognise=recognise,
)
