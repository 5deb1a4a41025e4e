"""Chat messages: ``{"messages": [{"role": ..., "content": ...}, ...]}``.

JSON lines, or one JSON array in a file ``*.json``, compressed or not; or Parquet with such a
column. ``dialogue_id`` (or ``id``) and ``thread_id`` may stand beside. ``role`` is ``user``,
``assistant`` or ``system``, which is left out.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import PurePath

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.readers import parquet
from sage_core.corpus.readers.conversations import (
    SYSTEM,
    Layout,
    conversation,
    knows_json,
    read_json,
)
from sage_core.corpus.readers.fields import row_records
from sage_core.corpus.readers.reader import Reader, Source
from sage_core.corpus.records import Record

LAYOUT = Layout(
    messages="messages",
    role="role",
    content="content",
    roles={"user": "user", "assistant": "assistant", "system": SYSTEM},
)


def knows(path: PurePath) -> bool:
    """Whether a file of a folder may hold messages."""
    return parquet.knows(path) or knows_json(path)


def read(source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The conversations of one file."""
    if not parquet.knows(source.file):
        return read_json(source, config, LAYOUT)
    rows = parquet.read_rows(
        source.file, source.name, ("messages",), ("dialogue_id", "id", "thread_id")
    )
    make = partial(conversation, layout=LAYOUT, name=source.name, max_bytes=config.max_record_bytes)
    return row_records(rows, source.name, make)


READER = Reader(read, knows, "*.json, *.jsonl or *.ndjson, compressed or not, or *.parquet")
