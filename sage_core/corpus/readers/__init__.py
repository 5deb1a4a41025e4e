"""Readers: each module states one format and streams its records, good and bad ones.

:func:`sources` names the parts that can be read side by side, :func:`read` reads one of them.
"""

from collections.abc import Iterator
from pathlib import PurePath
from typing import Protocol

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.readers import (
    chitchat,
    convokit,
    empathetic_dialogues,
    huggingface,
    messages,
    pushshift,
    sharegpt,
)
from sage_core.corpus.readers.fields import Source
from sage_core.corpus.records import Record
from sage_core.errors import ConfigError, DataError

__all__ = ["Source", "read", "sources", "yields_posts"]


class _Reader(Protocol):
    def read(self, source: Source, config: CorpusConfig, /) -> Iterator[Record]: ...


class _FileReader(_Reader, Protocol):
    @property
    def FILES(self) -> str: ...  # noqa: N802 - a module's constant

    def knows(self, path: PurePath, /) -> bool: ...


_FILE_READERS: dict[str, _FileReader] = {
    "empathetic_dialogues": empathetic_dialogues,
    "pushshift": pushshift,
    "convokit": convokit,
    "sharegpt": sharegpt,
    "messages": messages,
}
_READERS: dict[str, _Reader] = {"chitchat": chitchat, "hf": huggingface, **_FILE_READERS}


def sources(config: CorpusConfig) -> list[Source]:
    """The parts of the input: a file, or all files below a folder that the reader knows by name.

    They are in the order of their names; hidden files and folders are passed over.

    Raises:
        ConfigError: the reader needs ``corpus.input``, or must not have it.
        DataError: it does not exist, or is a folder without a file of the reader.
    """
    reader, path = config.reader, config.input
    if reader == "chitchat":
        if path is not None:
            raise ConfigError(
                "corpus.input is set, but the reader 'chitchat' has its data packaged"
            )
        return [Source(None, reader)]
    if path is None:
        raise ConfigError(f"corpus.reader = '{reader}' needs corpus.input, a file or a folder")
    if reader == "hf":
        return [Source(path, path.resolve().name if path.exists() else path.as_posix())]
    if not path.exists():
        raise DataError(
            f"corpus.input = '{path}' does not exist; give the path of a file or of a folder"
        )
    if not path.is_dir():
        return [Source(path, path.name)]
    known = _FILE_READERS[reader]
    files = ((file, file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    found = [
        Source(file, name.as_posix())
        for file, name in files
        if known.knows(name) and not any(part.startswith(".") for part in name.parts)
    ]
    if not found:
        raise DataError(
            f"corpus.input = '{path}' holds no file of the reader '{reader}', which reads "
            f"{known.FILES}"
        )
    return sorted(found, key=lambda source: source.name)


def read(source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The records of one source, in its order: posts where :func:`yields_posts`, else dialogues.

    Raises:
        DataError: a data set of the reader ``hf`` cannot be loaded or has none of its columns.
    """
    return _READERS[config.reader].read(source, config)


def yields_posts(config: CorpusConfig) -> bool:
    """Whether the reader yields the posts of reply trees instead of dialogues."""
    return config.reader in ("pushshift", "convokit")
