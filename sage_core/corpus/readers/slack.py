"""Slack's export: a folder, or its zip, with ``users.json`` and a folder for each channel, which
holds a file for each day, ``2024-01-31.json``, an array of messages.

A message has ``type``, ``user``, ``text``, ``ts`` and, in a thread, ``thread_ts``. A speaker is
called by the display name, or the real name. Messages with a ``subtype``, such as notices that
somebody joined, are left out. Threads are dialogues of their own; those of one channel are held in
memory until its end.
"""

import re
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile
from zipfile import Path as ZipPath

import orjson

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.lines import bad_record
from sage_core.corpus.readers.fields import FieldError, seconds, text
from sage_core.corpus.readers.people import Said, read_chats, recognised
from sage_core.corpus.readers.reader import Reader, Recognised, Source
from sage_core.corpus.records import BadRecord, Record
from sage_core.errors import DataError

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}\.json")
_MENTION = re.compile(r"<@(?P<id>\w+)(?:\|[^>]*)?>")
_LINK = re.compile(r"<(?P<link>[^<>|]+)\|(?P<shown>[^<>]*)>")
_SPOKEN = (None, "thread_broadcast", "me_message", "bot_message")  # subtypes

Folder = Path | ZipPath


def read(source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The dialogues of all channels.

    Raises:
        DataError: the input is no export.
    """
    return read_chats(partial(_messages, source, config), source, config)


def recognise(source: Source, config: CorpusConfig) -> Recognised | None:
    """The speakers of the export."""
    try:
        _channels(source)
    except DataError:
        return None
    return recognised("a Slack export", partial(_messages, source, config), config)


def _channels(source: Source) -> list[Folder]:
    """The folders with a file for each day.

    Raises:
        DataError: there is none.
    """
    path = source.file
    try:
        root: Folder = ZipPath(path) if path.is_file() else path
        found = [each for each in root.iterdir() if each.is_dir() and _days(each)]
    except (BadZipFile, OSError):
        found = []
    if not found:
        raise DataError(
            f"corpus.input = '{path}' is not a Slack export; give the folder, or its zip, that "
            "holds users.json and a folder of files YYYY-MM-DD.json for each channel"
        )
    return sorted(found, key=lambda channel: channel.name)


def _days(channel: Folder) -> list[Folder]:
    days = [each for each in channel.iterdir() if _DAY.fullmatch(each.name)]
    return sorted(days, key=lambda day: day.name)


def _messages(source: Source, config: CorpusConfig) -> Iterator[Said | BadRecord]:
    path = source.file
    channels = _channels(source)
    names = _names(ZipPath(path) if path.is_file() else path)
    for channel in channels:
        threads: dict[str, list[Said]] = {}
        for day in _days(channel):
            place = f"{source.name}/{channel.name}/{day.name}"
            for number, message in enumerate(_loaded(day, place), start=1):
                if isinstance(message, BadRecord):
                    yield message
                    continue
                try:
                    thread, said = _said(message, names, channel.name)
                except FieldError as error:
                    sample = repr(message).encode("utf-8", "replace")
                    where = f"{place}, message {number}"
                    yield bad_record(error.reason, where, sample, error.detail)
                    continue
                if said is None:
                    continue
                if thread:
                    threads.setdefault(thread, []).append(said)
                else:
                    yield said
        for said_in in threads.values():
            yield from said_in


def _loaded(day: Folder, place: str) -> list[Any]:
    """The messages of a day, or a BadRecord of it."""
    try:
        raw = day.read_bytes()
    except (BadZipFile, RuntimeError, zlib.error) as error:  # damaged or encrypted
        return [bad_record("truncated", place, b"", str(error))]
    try:
        messages = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return [bad_record("not_json", place, raw, str(error))]
    if not isinstance(messages, list):
        return [bad_record("wrong_type", place, raw, "it is not an array of messages")]
    return messages


def _names(root: Folder) -> dict[str, str]:
    """The names of users by their ids."""
    file = root / "users.json"
    if not file.exists():
        return {}
    try:
        users = orjson.loads(file.read_bytes())
    except (orjson.JSONDecodeError, BadZipFile, RuntimeError, zlib.error):
        users = None
    if not isinstance(users, list) or not all(isinstance(user, dict) for user in users):
        raise DataError(
            f"'{file}' cannot be read as an array of users; export again, or delete it to read ids"
        )
    found = {}
    for user in users:
        profile = user.get("profile") or {}
        name = profile.get("display_name") or profile.get("real_name") or user.get("name")
        found[str(user.get("id"))] = str(name or user.get("id"))
    return found


def _said(message: object, names: dict[str, str], channel: str) -> tuple[str, Said | None]:
    """The thread, "" for none, and what is said; None for a notice."""
    if not isinstance(message, dict):
        raise FieldError("wrong_type", "it is not an object")
    if message.get("type") != "message" or message.get("subtype") not in _SPOKEN:
        return "", None
    thread = str(message.get("thread_ts") or "") if _in_thread(message) else ""
    speaker = str(message.get("user") or message.get("username") or message.get("bot_id") or "")
    if not speaker:
        raise FieldError("missing_field", "'user' is missing or null")
    written = _MENTION.sub(
        lambda found: f"@{names.get(found['id'], found['id'])}", text(message, "text")
    )
    written = _LINK.sub(r"\g<shown>", written)
    for escaped, plain in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        written = written.replace(escaped, plain)
    time = seconds(message.get("ts"), "ts")
    return thread, Said(names.get(speaker, speaker), time, written, f"{channel} {thread}".strip())


def _in_thread(message: dict[str, Any]) -> bool:
    """Whether a message is a reply, or has replies."""
    return message.get("thread_ts") != message.get("ts") or bool(message.get("reply_count"))


READER = Reader(
    read,
    files="a folder or a zip with a folder for each channel",
    reads="Slack's exports, as a folder or its zip",
    whole=True,
    recognise=recognise,
)
