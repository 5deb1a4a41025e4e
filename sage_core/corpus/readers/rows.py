"""The records of a file as objects with their places, and what is made of each."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from sage_core.corpus.lines import bad_record, parse_json
from sage_core.corpus.readers.fields import FieldError
from sage_core.corpus.records import BadRecord, Record


class Row(NamedTuple):
    """A record of a file, as an object.

    Attributes:
        number: of its line, row or element, from 1.
        place: file and number, in words.
        raw: its bytes; None for a row of a table.
    """

    number: int
    place: str
    record: dict[str, Any]
    raw: bytes | None = None

    def refused(self, reason: str, detail: str) -> BadRecord:
        """The record as a bad one."""
        raw = repr(self.record).encode("utf-8", "replace") if self.raw is None else self.raw
        return bad_record(reason, self.place, raw, detail)


def json_rows(
    items: Iterable[tuple[int, bytes] | BadRecord], where: str, unit: str = "line"
) -> Iterator[Row | BadRecord]:
    """Numbered lines or elements of JSON as rows."""
    for item in items:
        if isinstance(item, BadRecord):
            yield item
            continue
        number, raw = item
        place = f"{where}, {unit} {number}"
        record = parse_json(raw, place)
        yield record if isinstance(record, BadRecord) else Row(number, place, record, raw)


def table_rows(
    rows: Iterable[tuple[int, dict[str, Any]] | BadRecord], where: str
) -> Iterator[Row | BadRecord]:
    """The numbered rows of a table."""
    for row in rows:
        if isinstance(row, BadRecord):
            yield row
        else:
            yield Row(row[0], f"{where}, row {row[0]}", row[1])


def records_of(
    rows: Iterable[Row | BadRecord], make: Callable[[dict[str, Any], int], Record]
) -> Iterator[Record]:
    """``make(object, number)`` of each row; where it raises FieldError, a BadRecord."""
    for row in rows:
        if isinstance(row, BadRecord):
            yield row
            continue
        try:
            yield make(row.record, row.number)
        except FieldError as error:
            yield row.refused(error.reason, error.detail)
