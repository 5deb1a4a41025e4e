"""Rows of CSV and TSV files, streamed, each as the object that its header makes it.

Fields are quoted as spreadsheets do it: a quoted field may hold separators, line feeds and doubled
quotes. The separator is the most frequent one of the header, or what a first line ``sep=;`` says,
which spreadsheets write.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path, PurePath
from typing import Any

from sage_core.corpus.lines import TruncatedError, bad_record, read_chunks, uncompressed
from sage_core.corpus.records import BadRecord

_SUFFIXES = (".csv", ".tsv", ".tab")
_SEPARATOR = re.compile(r"(?i:sep)=(.)")


def knows(path: PurePath) -> bool:
    """Whether a file is a table of separated values by its name."""
    return uncompressed(path).suffix.lower() in _SUFFIXES


def read_rows(
    path: Path, where: str, max_bytes: int
) -> Iterator[tuple[int, dict[str, Any]] | BadRecord]:
    """The rows of ``path`` with their numbers, from 1, without the header; blank ones are left out.

    Bad records: one for all of a file whose header cannot be used; ``not_utf8``, ``wrong_type`` for
    a row with more or fewer fields than the header or with a quote that is not doubled,
    ``too_long`` for a field over ``max_bytes``, and ``truncated`` for what is lost of a damaged
    file.
    """
    csv.field_size_limit(max_bytes)
    lines = _Lines(read_chunks(path))
    first = next((line for line in lines if line.strip()), "")
    if spreadsheets := _SEPARATOR.fullmatch(first.strip()):
        separator, rest = spreadsheets[1], iter(lines)
    else:
        separator, rest = max("\t;,|", key=first.count), chain((first,), lines)
    rows = csv.reader(rest, delimiter=separator, strict=True)
    try:
        header = [name.strip() for name in next(filter(any, rows), [])]
    except csv.Error as error:
        reason, detail = _refused(error)
        yield bad_record(reason, f"{where}, header", b"", detail)
        return
    if problem := _problem(header):
        reason, detail = problem
        yield bad_record(reason, f"{where}, header", _raw(header), detail)
        return
    number = 0
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            number += 1
            reason, detail = _refused(error)
            yield bad_record(reason, f"{where}, row {number}", b"", detail)
            continue
        if row is None:
            break
        if not any(row):
            continue
        number += 1
        yield _row(row, header, number, f"{where}, row {number}")
    if lines.truncated:
        yield bad_record("truncated", f"{where}, row {number + 1}", b"", "the file is cut off")


def _problem(header: list[str]) -> tuple[str, str] | None:
    """Why no row can be read under a header."""
    if not all(map(_is_text, header)):
        return "not_utf8", "the file is not text in UTF-8; save it as UTF-8"
    if header and header[0].startswith(("{", "[")):
        return "wrong_type", "the file is JSON; name it *.json or *.jsonl"
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        return "wrong_type", f"two columns are called {twice[0]!r:.60}"
    return None


def _refused(error: csv.Error) -> tuple[str, str]:
    """Reason and detail of what the standard library refuses."""
    if "field limit" in str(error):
        return "too_long", f"{error}: a quote is never closed, or corpus.max_record_bytes too small"
    if "unexpected end" in str(error):
        return "truncated", "a quote is never closed: the file is cut off, or a quote not doubled"
    return "wrong_type", f"{error}: a quote within a quoted field has to be doubled"


def _row(
    row: list[str], header: list[str], number: int, place: str
) -> tuple[int, dict[str, Any]] | BadRecord:
    raw = _raw(row)
    if not all(map(_is_text, row)):
        return bad_record("not_utf8", place, raw)
    if len(row) != len(header):
        problem = f"it has {len(row)} fields, the header {len(header)}: {', '.join(header)}"
        return bad_record("wrong_type", place, raw, problem)
    return number, dict(zip(header, row, strict=True))


def _is_text(field: str) -> bool:
    """Whether a field was UTF-8."""
    return not any("\udc80" <= each <= "\udcff" for each in field)


def _raw(row: list[str]) -> bytes:
    return ",".join(row).encode("utf-8", "surrogateescape")


class _Lines:
    """The lines of a file with their ends, which only a line feed makes; what is no UTF-8 stays as
    surrogates."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.truncated = False
        self._lines = self._cut(chunks)

    def __iter__(self) -> Iterator[str]:
        return self._lines

    def __next__(self) -> str:
        return next(self._lines)

    def _cut(self, chunks: Iterable[bytes]) -> Iterator[str]:
        rest = b""
        try:
            for chunk in chunks:
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (f"{_decoded(line)}\n" for line in lines)
        except TruncatedError:
            self.truncated = True
            return
        if rest:
            yield _decoded(rest)


def _decoded(line: bytes) -> str:
    return line.removesuffix(b"\r").replace(b"\0", b"").decode("utf-8", "surrogateescape")
