"""Hugging Face data sets (reader ``hf``): on the hub, in a folder, or made by ``save_to_disk``.

The splits that ``corpus.splits`` names are read, or all, of the configuration that
``corpus.configuration`` names; streamed or mapped into memory. The layout of each split is
recognised as that of a file is (:mod:`sage_core.corpus.readers.messages`). The source is the data
set's name.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.readers.reader import Reader, Recognised, Source
from sage_core.corpus.readers.recognition import (
    SAMPLE,
    layout_of,
    read_layout,
    recognised,
    unknown_layout,
)
from sage_core.corpus.readers.rows import Row
from sage_core.corpus.records import Record
from sage_core.errors import DataError
from sage_core.schema import Dialogue

_SAVED = ("state.json", "dataset_dict.json")  # a Dataset's, a DatasetDict's


def read(source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The conversations of the splits, one split after the other.

    Raises:
        DataError: the data set cannot be loaded, it has no such split, or the layout of one is not
            known.
    """
    for split, data in _splits(source.file, config).items():
        where = f"{source.name}/{split}"
        rows = _rows(data, where)
        head = list(islice(rows, SAMPLE))
        if head and layout_of(head, where, config) is None:
            raise DataError(f"'{where}': {unknown_layout(head[0])}")
        for record in read_layout(chain(head, rows), where, config):
            if isinstance(record, Dialogue):
                yield replace(record, source=source.name)
            else:
                yield record


def recognise(source: Source, config: CorpusConfig) -> Recognised | None:
    """The layout of the first split.

    Raises:
        DataError: the data set cannot be loaded, or it has no such split.
    """
    split, data = next(iter(_splits(source.file, config).items()))
    where = f"{source.name}/{split}"
    return recognised(_rows(data, where), where, config)


def _splits(path: Path, config: CorpusConfig) -> dict[str, Any]:
    found = _loaded(path, config.configuration)
    if missing := [name for name in config.splits if name not in found]:
        raise DataError(
            f"corpus.splits: '{path}' has no split {', '.join(missing)}; it has {', '.join(found)}"
        )
    return {name: found[name] for name in config.splits or found}


def _loaded(path: Path, configuration: str) -> dict[str, Any]:
    import datasets  # takes a second to import

    try:
        if not any((path / name).is_file() for name in _SAVED):
            name = str(path) if path.exists() else path.as_posix()
            return dict(datasets.load_dataset(name, configuration or None, streaming=True))
        saved = datasets.load_from_disk(str(path))
        return dict(saved) if isinstance(saved, dict) else {"all": saved}
    except Exception as error:  # anything: its own errors, httpx's, pyarrow's
        raise DataError(
            f"corpus.input = '{path}' cannot be loaded as a data set ({error}); give the name "
            "of one on the hub, a folder of its files, or a folder that save_to_disk made, and in "
            "corpus.configuration the name of its configuration where it has several"
        ) from error


def _rows(data: Any, where: str) -> Iterator[Row]:
    try:
        for number, record in enumerate(data, start=1):
            yield Row(number, f"{where}, row", record)
    except Exception as error:  # anything: httpx's, pyarrow's, a decoder's
        raise DataError(f"'{where}' cannot be read to its end: {error}; start again") from error


READER = Reader(
    read,
    files="a data set on the hub, or a folder of one",
    reads="Hugging Face data sets in the same layouts, by name or local path, with their "
    "configurations and splits",
    whole=True,
    recognise=recognise,
)
