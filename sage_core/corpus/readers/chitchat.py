"""The 7,168 conversations of the package ``chitchat-dataset``.

A turn is one sender's messages joined by one space.
"""

from collections.abc import Iterator
from importlib import resources

import orjson

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.readers.reader import Reader, Source
from sage_core.corpus.records import Record
from sage_core.schema import Dialogue, with_roles


def read(source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The conversations, in the package's order."""
    packaged = resources.files("chitchat_dataset").joinpath("dataset.json").read_bytes()
    for conversation_id, conversation in orjson.loads(packaged).items():
        turns = [" ".join([part["text"] for part in turn]) for turn in conversation["messages"]]
        yield Dialogue(conversation_id, "chitchat", conversation_id, with_roles(turns))


READER = Reader(
    read,
    reads="the 7,168 conversations of the package `chitchat-dataset`",
    package="chitchat-dataset",
    licence="MIT",
)
