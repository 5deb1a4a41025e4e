"""The messages of an app's export: elements of arrays within one JSON file, streamed."""

from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.lines import bad_record, parse_json, read_chunks, uncompressed
from sage_core.corpus.readers.arrays import split_arrays
from sage_core.corpus.readers.fields import FieldError
from sage_core.corpus.readers.people import Said
from sage_core.corpus.readers.reader import Source
from sage_core.corpus.records import BadRecord

_FIRST_BYTES = 262_144


def knows(path: PurePath) -> bool:
    """Whether a file of a folder may be an export."""
    return uncompressed(path).suffix.lower() == ".json"


def items(
    source: Source,
    config: CorpusConfig,
    key: str,
    make: Callable[[dict[str, Any], str], Said | None],
) -> Iterator[Said | BadRecord]:
    """``make(message, number of the array)`` of each element of the arrays named ``key``; None is
    left out, and where it raises FieldError there is a BadRecord."""
    limit = config.max_record_bytes
    arrays = 0
    for element in split_arrays(read_chunks(source.file), source.name, limit, key):
        if isinstance(element, BadRecord):
            yield element
            continue
        arrays = element.array
        place = f"{source.name}, {key[:-1]} {element.number}"
        record = parse_json(element.raw, place)
        if isinstance(record, BadRecord):
            yield record
            continue
        try:
            if said := make(record, str(arrays)):
                yield said
        except FieldError as error:
            yield bad_record(error.reason, place, element.raw, error.detail)


def starts_with(source: Source, key: str, fields: set[str]) -> bool:
    """Whether the first element of the arrays named ``key`` has all ``fields``; "" stands for the
    array that a file is."""
    return fields <= set(first_of(source, key))


def first_of(source: Source, key: str) -> dict[str, Any]:
    """The first element of the arrays named ``key`` as an object; empty where there is none."""
    for element in split_arrays(read_chunks(source.file), source.name, _FIRST_BYTES, key):
        if isinstance(element, BadRecord):
            return {}
        record = parse_json(element.raw, source.name)
        return {} if isinstance(record, BadRecord) else record
    return {}
