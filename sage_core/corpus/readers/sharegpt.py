"""ShareGPT exports: ``{"conversations": [{"from": ..., "value": ...}, ...], "id": ...}``.

JSON lines, or one JSON array in a file ``*.json``; compressed or not. ``from`` is ``human`` or
``user``, ``gpt``, ``assistant``, ``bing``, ``chatgpt`` or ``bard``, or ``system``, which is left
out. ``id`` may be missing.
"""

from collections.abc import Iterator

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.readers.conversations import SYSTEM, Layout, knows_json, read_json
from sage_core.corpus.readers.reader import Reader, Source
from sage_core.corpus.records import Record

LAYOUT = Layout(
    messages="conversations",
    role="from",
    content="value",
    roles={
        "human": "user",
        "user": "user",
        **dict.fromkeys(("gpt", "assistant", "bing", "chatgpt", "bard"), "assistant"),
        "system": SYSTEM,
    },
)


def read(source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The conversations of one file."""
    return read_json(source, config, LAYOUT)


READER = Reader(read, knows_json, "*.json, *.jsonl or *.ndjson, compressed or not")
