"""Discord channels as DiscordChatExporter writes them in JSON: ``{"channel": {...}, "messages":
[{"type", "timestamp", "content", "author": {"name", "nickname", "isBot"}}, ...]}``.

A speaker is called by the nickname, or the name. Only messages and replies count; a bot may be the
assistant too.
"""

from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Any

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.readers.app_json import items, knows, starts_with
from sage_core.corpus.readers.fields import FieldError, text, wrong
from sage_core.corpus.readers.people import Said, read_chats, recognised
from sage_core.corpus.readers.reader import Reader, Recognised, Source
from sage_core.corpus.records import BadRecord, Record

_KINDS = ("Default", "Reply")


def read(source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The dialogues of one channel."""
    return read_chats(partial(_messages, source, config), source, config)


def recognise(source: Source, config: CorpusConfig) -> Recognised | None:
    """The channel's speakers."""
    if not starts_with(source, "messages", {"timestamp", "author"}):
        return None
    return recognised("a Discord channel", partial(_messages, source, config), config)


def _messages(source: Source, config: CorpusConfig) -> Iterator[Said | BadRecord]:
    return items(source, config, "messages", _said)


def _said(message: dict[str, Any], chat: str) -> Said | None:
    if message.get("type") not in _KINDS:
        return None
    author = message.get("author")
    if not isinstance(author, dict):
        raise wrong(author, "author", "an object")
    name = text(author, "nickname" if author.get("nickname") else "name", "author.")
    return Said(name, _time(message), text(message, "content"))


def _time(message: dict[str, Any]) -> float:
    written = text(message, "timestamp")
    try:
        return datetime.fromisoformat(written).timestamp()
    except (ValueError, OverflowError):
        raise FieldError("wrong_type", f"'timestamp' is {written!r:.60}, not a time") from None


READER = Reader(
    read,
    knows,
    "*.json",
    reads="Discord channels, as DiscordChatExporter writes them in JSON",
    recognise=recognise,
)
