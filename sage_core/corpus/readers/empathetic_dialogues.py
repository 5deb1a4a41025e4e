"""EmpatheticDialogues (Rashkin et al., 2019): the published CSV, or the hub's CSV or Parquet.

Columns ``conv_id``, ``utterance_idx``, ``context`` (the emotion), ``prompt`` (the situation),
``speaker_idx`` and ``utterance``; others are ignored. The published CSV is cut at every comma: it
quotes nothing, quotes in it are text and need not be in pairs, and ``_comma_`` is a comma.
A CSV that quotes fields, as pandas or a spreadsheet saves it, is read as such: its first line is
quoted, or has rows of the right length only if quotes hold commas together (``_quotes``).

Rows of a conversation follow each other and are put in the order of ``utterance_idx``. A turn is
one speaker's consecutive utterances, stripped and joined by one space. A conversation with a bad
row is refused whole, as one record; so is the one that the end of a damaged file may cut off.
"""

import csv
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, groupby, islice
from pathlib import Path, PurePath
from typing import Any

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.lines import bad_record, is_utf8, read_lines, uncompressed
from sage_core.corpus.readers import parquet
from sage_core.corpus.readers.fields import FieldError, identifier, needed, text, wrong
from sage_core.corpus.readers.reader import Reader, Recognised, Source
from sage_core.corpus.records import BadRecord, Record
from sage_core.errors import DataError
from sage_core.schema import Dialogue, with_roles

_HEAD_LINES = 1000  # tell whether a CSV quotes its fields
_COLUMNS = ("conv_id", "utterance_idx", "context", "prompt", "speaker_idx", "utterance")


@dataclass(frozen=True)
class _Row:
    conv_id: str
    index: int
    emotion: str
    situation: str
    speaker: str
    utterance: str


@dataclass(frozen=True)
class _BadRow:
    """A refused row; ``conv_id`` None: it belongs to the conversation under way."""

    conv_id: str | None
    record: BadRecord


def knows(path: PurePath) -> bool:
    """Whether a file of a folder may hold conversations."""
    return uncompressed(path).suffix.lower() == ".csv" or parquet.knows(path)


def read(source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The conversations of one file, in its order."""
    rows = _rows(source.file, source.name, config.max_record_bytes)
    for conversation in _conversations(rows):
        yield conversation if isinstance(conversation, BadRecord) else _dialogue(conversation)


def recognise(source: Source, config: CorpusConfig) -> Recognised | None:
    """Whether its first conversation can be read."""
    if not isinstance(next(read(source, config), None), Dialogue):
        return None
    columns = {"conversation": "conv_id", "role": "speaker_idx", "content": "utterance"}
    return Recognised("EmpatheticDialogues, the first to speak is the user", columns)


def read_situations(path: Path) -> Iterator[tuple[str, str, str]]:
    """``conv_id``, situation and emotion of each conversation; refused ones are left out.

    Raises:
        DataError: the file does not exist.
    """
    if not path.is_file():
        raise DataError(f"'{path}' does not exist; give a file of EmpatheticDialogues")
    for conversation in _conversations(_rows(path, path.name, CorpusConfig().max_record_bytes)):
        if not isinstance(conversation, BadRecord):
            row = conversation[0]
            yield row.conv_id, row.situation, row.emotion


def _dialogue(rows: list[_Row]) -> Dialogue:
    turns = (
        " ".join(row.utterance for row in turn)
        for _, turn in groupby(rows, lambda row: row.speaker)
    )
    conv_id = rows[0].conv_id
    return Dialogue(conv_id, "empathetic_dialogues", conv_id, with_roles(turns))


def _conversations(rows: Iterable[_Row | _BadRow]) -> Iterator[list[_Row] | BadRecord]:
    """Each conversation's rows in order, or the first of its bad ones."""
    conv_id: str | None = None
    good: list[_Row] = []
    bad: BadRecord | None = None
    stray: _BadRow | None = None  # begins the next conversation, or belongs to none
    for row in rows:
        if isinstance(row, _BadRow):
            if row.conv_id in (None, conv_id):
                bad = bad or row.record
            elif stray is None or stray.conv_id != row.conv_id:
                if stray:
                    yield stray.record
                stray = row
            continue
        if row.conv_id != conv_id:
            yield from _finished(good, bad)
            conv_id, good, bad = row.conv_id, [], None
            if stray and stray.conv_id == conv_id:
                bad = stray.record
            elif stray:
                yield stray.record
            stray = None
        good.append(row)
    yield from _finished(good, bad)
    if stray:
        yield stray.record


def _finished(good: list[_Row], bad: BadRecord | None) -> Iterator[list[_Row] | BadRecord]:
    if bad:
        yield bad
    elif good:
        yield sorted(good, key=lambda row: row.index)


def _rows(path: Path, where: str, max_bytes: int) -> Iterator[_Row | _BadRow]:
    return _parquet_rows(path, where) if parquet.knows(path) else _csv_rows(path, where, max_bytes)


def _csv_rows(path: Path, where: str, max_bytes: int) -> Iterator[_Row | _BadRow]:
    header: list[str] = []
    lines: Iterator[tuple[int, bytes] | BadRecord] = iter(read_lines(path, where, max_bytes))
    head = list(islice(lines, _HEAD_LINES))
    quoted = _quotes([line[1] for line in head if not isinstance(line, BadRecord)])
    lines = chain(head, lines)
    for line in _whole_rows(lines, where, max_bytes) if quoted else lines:
        if isinstance(line, BadRecord):
            conv_id = None if line.reason == "truncated" else line.sample.split(",")[0]
            yield _BadRow(conv_id, line)
            continue
        number, raw = line
        place = f"{where}, line {number}"
        fields = _fields(raw, quoted=quoted)
        if not header:
            header = fields
            if set(_COLUMNS) <= set(header):
                continue
        record = dict(zip(header, fields, strict=False))
        if not is_utf8(raw):
            yield _BadRow(record.get("conv_id") or place, bad_record("not_utf8", place, raw))
        else:
            yield _row(record, place, raw)


def _quotes(lines: list[bytes]) -> bool:
    """Whether the fields of a CSV are quoted: the header is, or a row that is too long when it is
    cut at every comma is not when quotes hold it together."""
    if not lines:
        return False
    if lines[0].startswith(b'"'):
        return True
    columns = len(_fields(lines[0], quoted=False))
    return any(
        len(_fields(line, quoted=False)) > columns == len(_fields(line, quoted=True))
        for line in lines
        if b'"' in line
    )


def _fields(raw: bytes, *, quoted: bool) -> list[str]:
    text = raw.decode("utf-8", "replace").rstrip("\r")
    if quoted:
        with suppress(csv.Error):  # such as a line feed within a field that is not quoted
            return next(csv.reader([text]), [])
    return text.split(",")


def _whole_rows(
    lines: Iterable[tuple[int, bytes] | BadRecord], where: str, max_bytes: int
) -> Iterator[tuple[int, bytes] | BadRecord]:
    """The lines with those joined over which a quoted field goes on: their quotes are in pairs."""
    first, held = 0, b""
    for line in lines:
        if isinstance(line, BadRecord):
            yield line
            continue
        number, raw = line
        first, held = (first, held + b"\n" + raw) if held else (number, raw)
        if len(held) > max_bytes:
            yield bad_record("too_long", f"{where}, line {first}", held)
            held = b""
        elif held.count(b'"') % 2 == 0:
            yield first, held
            held = b""
    if held:
        yield bad_record("truncated", f"{where}, line {first}", held)


def _parquet_rows(path: Path, where: str) -> Iterator[_Row | _BadRow]:
    for row in parquet.read_rows(path, where, _COLUMNS):
        if isinstance(row, BadRecord):
            yield _BadRow(row.where if row.reason == "missing_field" else None, row)
        else:
            number, record = row
            yield _row(record, f"{where}, row {number}", repr(record).encode())


def _row(record: dict[str, Any], place: str, raw: bytes) -> _Row | _BadRow:
    try:
        return _Row(
            conv_id=needed(text(record, "conv_id"), "conv_id"),
            emotion=text(record, "context"),
            situation=_unescaped(text(record, "prompt")),
            speaker=needed(identifier(record, "speaker_idx"), "speaker_idx"),
            utterance=_unescaped(text(record, "utterance")),
            index=_whole(record, "utterance_idx"),
        )
    except FieldError as error:
        conv_id = record.get("conv_id") or place
        return _BadRow(str(conv_id), bad_record(error.reason, place, raw, error.detail))


def _whole(record: dict[str, Any], key: str) -> int:
    try:
        return int(needed(identifier(record, key), key))
    except ValueError:
        raise wrong(record[key], key, "a whole number") from None


def _unescaped(written: str) -> str:
    return written.replace("_comma_", ",").strip()


READER = Reader(
    read,
    knows,
    "*.csv, compressed or not, or *.parquet",
    reads="EmpatheticDialogues: the published CSV, or the hub's tables",
    licence="CC-BY-NC-4.0",
    recognise=recognise,
)
