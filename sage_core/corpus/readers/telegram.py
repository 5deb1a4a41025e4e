"""Telegram's export in JSON (``result.json``): a chat, or all chats of an account.

A message has ``type`` (only ``message`` counts), ``date_unixtime`` or ``date``, ``from``, and
``text``, a text or a list of texts and of parts with a ``text``. Each chat is read by itself.
"""

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Any

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.readers.app_json import items, knows, starts_with
from sage_core.corpus.readers.fields import FieldError, seconds, text, wrong
from sage_core.corpus.readers.people import Said, read_chats, recognised
from sage_core.corpus.readers.reader import Reader, Recognised, Source
from sage_core.corpus.records import BadRecord, Record


def read(source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The dialogues of one export."""
    return read_chats(partial(_messages, source, config), source, config)


def recognise(source: Source, config: CorpusConfig) -> Recognised | None:
    """The speakers of its first messages."""
    if not starts_with(source, "messages", {"date", "type", "text"}):
        return None
    return recognised("a Telegram export", partial(_messages, source, config), config)


def _messages(source: Source, config: CorpusConfig) -> Iterator[Said | BadRecord]:
    return items(source, config, "messages", _said)


def _said(message: dict[str, Any], chat: str) -> Said | None:
    if message.get("type") != "message":
        return None
    # The sender of a deleted account has the name null.
    speaker = message.get("from") or message.get("from_id") or "deleted account"
    return Said(str(speaker), _time(message), _text(message.get("text")), chat)


def _time(message: dict[str, Any]) -> float:
    if "date_unixtime" in message:
        return seconds(message["date_unixtime"], "date_unixtime")
    written = text(message, "date")
    try:
        return datetime.fromisoformat(written).timestamp()
    except (ValueError, OverflowError):
        raise FieldError("wrong_type", f"'date' is {written!r:.60}, not a time") from None


def _text(value: object) -> str:
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise wrong(value, "text", "a text or a list of parts")
    return "".join(_part(part) for part in parts)


def _part(part: object) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise wrong(part, "text[]", "a text or an object")
    return text(part, "text", "text[].")


READER = Reader(
    read,
    knows,
    "*.json",
    reads="Telegram's exports in JSON (`result.json`), of a chat or of an account",
    recognise=recognise,
)
