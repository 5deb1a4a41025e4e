"""Conversations in the usual layouts (reader ``messages``, also called ``sharegpt``).

JSON lines, an array, objects or ``{"data": [...]}`` under any suffix, compressed or not; Parquet;
CSV and TSV. The layout is recognised from a file's first records (:mod:`recognition`), or named in
``corpus.columns`` and ``corpus.roles``:

- a list of messages under ``messages``, ``conversations``, ``conversation`` or alike, of ``role``
  and ``content`` (OpenAI, WildChat, LMSYS), ``from`` and ``value`` (ShareGPT), or alike. System
  messages, tools' turns and calls are left out; content may be a list of parts.
- a list of alternating texts under ``dialog``, ``dialogue`` or ``utterances``;
- rows of a conversation, a speaker and a text, those of a conversation next to each other;
- ``instruction``, ``input``, ``output`` (Alpaca), ``prompt`` and ``completion`` or alike: an
  exchange of two turns, for ``mixture.instructions``.

A list may be written as JSON in a text. ``dialogue_id`` (or ``id``, ``conversation_id``,
``conversation_hash``) and ``thread_id`` may be given too.
"""

from collections.abc import Iterator

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.readers.containers import knows, read_rows
from sage_core.corpus.readers.reader import Reader, Recognised, Source
from sage_core.corpus.readers.recognition import read_layout, recognised
from sage_core.corpus.records import Record


def read(source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The conversations of one file."""
    rows = read_rows(source.file, source.name, config.max_record_bytes)
    return read_layout(rows, source.name, config)


def recognise(source: Source, config: CorpusConfig) -> Recognised | None:
    """Its layout."""
    rows = read_rows(source.file, source.name, config.max_record_bytes)
    return recognised(rows, source.name, config)


READER = Reader(
    read,
    knows,
    "*.json, *.jsonl or *.ndjson, compressed or not, *.parquet, *.csv or *.tsv",
    reads="conversations in the usual layouts: OpenAI messages, ShareGPT, WildChat and LMSYS, "
    "lists of alternating texts, tables with a turn in each row, Alpaca, prompt and completion",
    recognise=recognise,
)
