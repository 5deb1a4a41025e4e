"""The records of a file as objects with their places, and what is made of each."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from sage_core.corpus.lines import bad_record, parse_json
from sage_core.corpus.readers.fields import FieldError
from sage_core.corpus.records import BadRecord, Record

Made = TypeVar("Made")


class Row(NamedTuple):
    """A record of a file, as an object.

    Attributes:
        number: of its line, row or element, from 1.
        unit: the file, and what it is one of, in words.
        raw: its bytes; None for a row of a table.
    """

    number: int
    unit: str
    record: dict[str, Any]
    raw: bytes | None = None

    @property
    def place(self) -> str:
        """File and number, in words."""
        return f"{self.unit} {self.number}"

    def refused(self, reason: str, detail: str) -> BadRecord:
        """The record as a bad one."""
        raw = repr(self.record).encode("utf-8", "replace") if self.raw is None else self.raw
        return bad_record(reason, self.place, raw, detail)


def json_rows(
    items: Iterable[tuple[int, bytes] | BadRecord], where: str, unit: str = "line"
) -> Iterator[Row | BadRecord]:
    """Numbered lines or elements of JSON as rows."""
    unit = f"{where}, {unit}"
    return _parsed(items, unit, lambda record, number, raw: Row(number, unit, record, raw))


def json_records(
    lines: Iterable[tuple[int, bytes] | BadRecord],
    where: str,
    make: Callable[[dict[str, Any], int], Record],
) -> Iterator[Record]:
    """:func:`records_of` the lines of a dump; no row is made of each, which takes a tenth of the
    time."""
    return _parsed(lines, f"{where}, line", lambda record, number, raw: make(record, number))


def _parsed(
    items: Iterable[tuple[int, bytes] | BadRecord],
    unit: str,
    make: Callable[[dict[str, Any], int, bytes], Made],
) -> Iterator[Made | BadRecord]:
    for item in items:
        if isinstance(item, BadRecord):
            yield item
            continue
        number, raw = item
        record = parse_json(raw, "")
        if isinstance(record, BadRecord):
            yield replace(record, where=f"{unit} {number}")
            continue
        try:
            yield make(record, number, raw)
        except FieldError as error:
            yield bad_record(error.reason, f"{unit} {number}", raw, error.detail)


def table_rows(
    rows: Iterable[tuple[int, dict[str, Any]] | BadRecord], where: str
) -> Iterator[Row | BadRecord]:
    """The numbered rows of a table."""
    unit = f"{where}, row"
    for row in rows:
        if isinstance(row, BadRecord):
            yield row
        else:
            yield Row(row[0], unit, row[1])


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
