"""ESConv (Liu et al., 2021), conversations of emotional support: the published ``ESConv.json``, or
the hub's tables, whose column ``text`` holds each record as JSON.

A record has ``dialog``, a list of ``speaker`` (``seeker`` or ``usr``, ``supporter`` or ``sys``) and
``content`` or ``text``. The one who seeks support is the user.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import orjson

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.readers.containers import knows, read_rows
from sage_core.corpus.readers.conversations import (
    Layout,
    dialogue,
    listed,
    said,
)
from sage_core.corpus.readers.fields import FieldError
from sage_core.corpus.readers.reader import Reader, Recognised, Source
from sage_core.corpus.readers.rows import Row, records_of
from sage_core.corpus.records import Record
from sage_core.schema import Dialogue

_ROLES = {"seeker": "user", "usr": "user", "supporter": "assistant", "sys": "assistant"}
_SITUATION = {"emotion_type", "problem_type", "situation"}


def read(source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The conversations of one file."""
    rows = read_rows(source.file, source.name, config.max_record_bytes)
    return records_of(rows, partial(_dialogue, source, config))


def recognise(source: Source, config: CorpusConfig) -> Recognised | None:
    """Whether its first record has ESConv's fields."""
    first = next(read_rows(source.file, source.name, config.max_record_bytes), None)
    try:
        record = _unpacked(first.record) if isinstance(first, Row) else {}
    except FieldError:
        return None
    if not {"dialog", *_SITUATION} <= set(record):
        return None
    return Recognised("ESConv", {"messages": "dialog", "role": "speaker"}, _ROLES)


def _dialogue(
    source: Source, config: CorpusConfig, record: dict[str, Any], number: int
) -> Dialogue:
    record = _unpacked(record)
    messages = listed(record.get("dialog"), "dialog")
    hubs = messages and isinstance(messages[0], dict) and "text" in messages[0]
    content = "text" if hubs else "content"
    layout = Layout("dialog", "speaker", content, {**_ROLES, **config.roles})
    spoken = [(role, words.strip()) for role, words in said(messages, layout, "dialog")]
    return dialogue(record, number, spoken, source.name, config.max_record_bytes, has_roles=True)


def _unpacked(record: dict[str, Any]) -> dict[str, Any]:
    """The record that a text of the hub's table holds."""
    packed = record.get("text")
    if "dialog" in record or not isinstance(packed, str):
        return record
    try:
        unpacked = orjson.loads(packed)
    except orjson.JSONDecodeError:
        raise FieldError("wrong_type", "'text' is not JSON") from None
    return unpacked if isinstance(unpacked, dict) else record


READER = Reader(
    read,
    knows,
    "*.json or *.jsonl, compressed or not, *.parquet, *.csv or *.tsv",
    reads="ESConv: the published `ESConv.json`, or the hub's tables",
    licence="CC-BY-NC-4.0",
    recognise=recognise,
)
