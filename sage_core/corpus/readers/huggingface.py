"""Hugging Face data sets (reader ``hf``): on the hub, in a folder, or made by ``save_to_disk``.

All splits are read, streamed or mapped into memory. The first of these columns that a split has
holds its conversations: ``messages`` (``role``, ``content``), ``conversations`` (``from``,
``value``), or ``dialog``, ``dialogue``, ``utterances`` or ``turns``, a list of alternating texts,
of which the first is taken as the user's.
``dialogue_id`` (or ``id``) and ``thread_id`` may stand beside. The source is the data set's name.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.readers import messages, sharegpt
from sage_core.corpus.readers.conversations import conversation, dialogue
from sage_core.corpus.readers.fields import FieldError, row_records
from sage_core.corpus.readers.reader import Reader, Source
from sage_core.corpus.records import Record
from sage_core.errors import DataError
from sage_core.schema import Dialogue, with_roles

_LAYOUTS = {layout.messages: layout for layout in (messages.LAYOUT, sharegpt.LAYOUT)}
_TEXT_LISTS = ("dialog", "dialogue", "utterances", "turns")
_SAVED = ("state.json", "dataset_dict.json")  # a Dataset's, a DatasetDict's


def read(source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The conversations of all splits, one split after the other.

    Raises:
        DataError: the data set cannot be loaded, or a split has none of the known columns.
    """
    for split, data in _splits(source.file).items():
        where = f"{source.name}/{split}"
        rows = _rows(data, where)
        if (first := next(rows, None)) is None:
            continue
        make = _make(set(first[1]), where, config.max_record_bytes)
        for record in row_records(chain((first,), rows), where, make):
            if isinstance(record, Dialogue):
                yield replace(record, source=source.name)
            else:
                yield record


def _splits(path: Path) -> dict[str, Any]:
    import datasets  # takes a second to import

    try:
        if not any((path / name).is_file() for name in _SAVED):
            name = str(path) if path.exists() else path.as_posix()
            return dict(datasets.load_dataset(name, streaming=True))
        saved = datasets.load_from_disk(str(path))
        return dict(saved) if isinstance(saved, dict) else {"all": saved}
    except Exception as error:  # anything: its own errors, httpx's, pyarrow's
        raise DataError(
            f"corpus.input = '{path}' is no data set that can be loaded ({error}); give the name "
            "of one on the hub, a folder of its files, or a folder that save_to_disk made"
        ) from error


def _rows(data: Any, where: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        yield from enumerate(data, start=1)
    except Exception as error:  # anything: httpx's, pyarrow's, a decoder's
        raise DataError(f"'{where}' cannot be read to its end: {error}; start again") from error


def _make(
    columns: set[str], where: str, max_bytes: int
) -> Callable[[dict[str, Any], int], Dialogue]:
    known = (*_LAYOUTS, *_TEXT_LISTS)
    column = next((name for name in known if name in columns), None)
    if column is None:
        raise DataError(
            f"'{where}' has the columns {', '.join(sorted(columns))}; the reader 'hf' needs one of "
            f"{', '.join(known)}"
        )
    if column in _LAYOUTS:
        return partial(conversation, layout=_LAYOUTS[column], name=where, max_bytes=max_bytes)
    return partial(_text_list, column=column, name=where, max_bytes=max_bytes)


def _text_list(
    record: dict[str, Any], number: int, column: str, name: str, max_bytes: int
) -> Dialogue:
    turns = record.get(column)
    if turns is None:
        raise FieldError("missing_field")
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise FieldError("wrong_type")
    return dialogue(record, number, with_roles(turns), name, max_bytes, has_roles=False)


READER = Reader(read, whole=True)
