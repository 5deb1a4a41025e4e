"""Readers: each streams the conversations of one format as :class:`Dialogue`.

``chitchat``
    The package ``chitchat-dataset``; a turn is one sender's messages joined by one space.
``messages``
    JSON lines: ``{"messages": [{"role": ..., "content": ...}, ...]}``, optionally with
    ``dialogue_id`` and ``thread_id``. Turns must alternate; the first one is taken as the user's.
"""

import json
from collections.abc import Iterator
from importlib import resources
from itertools import islice
from pathlib import Path

from sage_core.config import CorpusConfig
from sage_core.errors import ConfigError, DataError
from sage_core.schema import Dialogue, with_roles


def read(config: CorpusConfig) -> Iterator[Dialogue]:
    """The conversations of the configured reader, at most ``max_read`` of them.

    Raises:
        ConfigError: the reader needs an input file, or must not have one.
        DataError: the input is missing or a record of it is not of the reader's format.
    """
    if config.reader == "chitchat":
        if config.input is not None:
            raise ConfigError(
                "corpus.input is set, but the reader 'chitchat' has its data packaged"
            )
        dialogues = read_chitchat()
    else:
        if config.input is None:
            raise ConfigError(f"corpus.reader = '{config.reader}' needs corpus.input, a file path")
        if not config.input.is_file():
            raise DataError(
                f"corpus.input = '{config.input}' does not exist; give the path of a file"
            )
        dialogues = read_messages(config.input)
    return islice(dialogues, config.max_read or None)


def read_chitchat() -> Iterator[Dialogue]:
    """The 7,168 conversations of the package ``chitchat-dataset``."""
    text = resources.files("chitchat_dataset").joinpath("dataset.json").read_text("utf-8")
    for conversation_id, conversation in json.loads(text).items():
        turns = (" ".join(part["text"] for part in turn) for turn in conversation["messages"])
        yield Dialogue(conversation_id, "chitchat", conversation_id, with_roles(turns))


def read_messages(path: Path) -> Iterator[Dialogue]:
    """The conversations of a JSON-lines file of message lists."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
                turns = [_text(message["content"]) for message in record["messages"]]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"line {number} of '{path}' is no conversation ({error!r}); each line is "
                    '{"messages": [{"role": ..., "content": ...}, ...]}'
                ) from None
            dialogue_id = str(record.get("dialogue_id", f"{path.stem}-{number}"))
            thread_id = str(record.get("thread_id", dialogue_id))
            yield Dialogue(dialogue_id, path.stem, thread_id, with_roles(turns))


def _text(content: object) -> str:
    if not isinstance(content, str):
        raise TypeError(f"content is {content!r} and not a text")
    return content
