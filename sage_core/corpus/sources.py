"""The input of a corpus: which parts it has, and the records of each."""

from collections.abc import Iterator
from pathlib import Path, PurePath

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.readers import READERS
from sage_core.corpus.readers.reader import Reader, Source
from sage_core.corpus.records import DIALOGUES, REJECTED, Record
from sage_core.errors import ConfigError, DataError
from sage_core.storage import printable

TABLES = (DIALOGUES, REJECTED)


def reader_of(config: CorpusConfig) -> Reader:
    """The reader that ``config`` names; a plain function reads every file of a folder.

    Raises:
        ConfigError: it cannot be imported, or is neither a :class:`Reader` nor a function.
    """
    found = READERS.load(config.reader)
    if isinstance(found, Reader):
        return found
    if callable(found):
        return Reader(found)
    raise READERS.error(config.reader, "is neither a Reader nor a function (source, config)")


def sources(config: CorpusConfig) -> list[Source]:
    """The parts of the input that can be read side by side: a file, or all files below a folder
    that the reader knows by name.

    They are in the order of their names; hidden files and folders are passed over, links to folders
    are followed.

    Raises:
        ConfigError: there is no such reader, or it needs ``corpus.input``, or must not have it.
        DataError: the input does not exist, or is a folder without a file of the reader.
    """
    reader, name, path = reader_of(config), config.reader, config.input
    if reader.package:
        if path is not None:
            raise ConfigError(f"corpus.input is set, but the reader '{name}' has its data packaged")
        return [Source(None, name)]
    if path is None:
        raise ConfigError(f"corpus.reader = '{name}' needs corpus.input, a file or a folder")
    if reader.whole:
        return [Source(path, path.resolve().name if path.exists() else path.as_posix())]
    if not path.exists():
        raise DataError(
            f"corpus.input = '{path}' does not exist; give the path of a file or of a folder"
        )
    if not path.is_dir():
        return [Source(path, printable(PurePath(path.name)))]
    found = [
        Source(path / part, printable(part))
        for part in _files(path, PurePath(), frozenset())
        if reader.knows(part)
    ]
    if not found:
        raise DataError(
            f"corpus.input = '{path}' holds no file of the reader '{name}', which reads "
            f"{reader.files}"
        )
    return sorted(found, key=lambda source: source.name)


def check_output(config: CorpusConfig, output: Path) -> None:
    """
    Raises:
        DataError: a later run would read what this one writes into ``output``, or this one would
            overwrite its input.
    """
    if config.input is None or not config.input.exists():
        return
    source, target = config.input.resolve(), output.resolve()
    inside = source.is_dir() and target.is_relative_to(source)
    if inside or (source.parent == target and source.name in TABLES):
        raise DataError(
            f"the output folder '{output}' is {'in ' if target != source else ''}corpus.input = "
            f"'{config.input}'; give a folder outside of it, so that no run reads what one wrote"
        )


def _files(root: Path, below: PurePath, entered: frozenset[Path]) -> Iterator[PurePath]:
    """The files of a folder and of those in it, links followed, without hidden ones; a link back to
    a folder that it is in is passed over."""
    folder = root / below
    real = folder.resolve()
    if real in entered:
        return
    for entry in folder.iterdir():
        part = below / entry.name
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files(root, part, entered | {real})
        elif entry.is_file():
            yield part


def read(source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The records of one source, in its order: posts of reply trees, or dialogues.

    Raises:
        DataError: a data set of the reader ``hf`` cannot be loaded or has none of its columns.
    """
    return reader_of(config).read(source, config)
