"""The records of a file, whatever holds them: JSON lines, an array, objects written over several
lines, an array within an object (``{"data": [...]}``), Parquet, CSV or TSV.

Tables are known by their suffix, JSON by its beginning, under any suffix.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePath

import orjson

from sage_core.corpus.lines import (
    TruncatedError,
    bad_record,
    is_binary,
    parse_json,
    read_chunks,
    read_lines,
    uncompressed,
)
from sage_core.corpus.readers import parquet, separated
from sage_core.corpus.readers.arrays import split_array, split_objects
from sage_core.corpus.readers.rows import Row, json_rows, table_rows
from sage_core.corpus.records import BadRecord

_JSON = (".jsonl", ".ndjson", ".json")
_WRAPPERS = ("data", "rows", "records", "items", "examples", "instances", "dialogues", "dialogs",
             "chats", "conversations", "train")  # fmt: skip
_HEAD_BYTES = 65_536
_CONTENTS = {
    b"PK\x03\x04": "a zip archive; unpack it",
    b"\x1f\x8b": "compressed by gzip; name it *.gz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; name it *.zst",
    b"BZh": "compressed by bzip2; name it *.bz2",
    b"\xfd7zXZ": "compressed by xz; name it *.xz",
    b"PAR1": "Parquet; name it *.parquet",
    b"%PDF": "a PDF document",
    b"SQLite": "a SQLite database",
}


def knows_json(path: PurePath) -> bool:
    """Whether a file of a folder is JSON or JSON lines, compressed or not."""
    return uncompressed(path).suffix.lower() in _JSON


def knows(path: PurePath) -> bool:
    """Whether a file of a folder is one of the kinds that are read."""
    return knows_json(path) or parquet.knows(path) or separated.knows(path)


def read_rows(path: Path, where: str, max_bytes: int) -> Iterator[Row | BadRecord]:
    """The records of ``path``, in its order.

    Bad records: as those of its kind; ``not_text`` for a file of another kind.
    """
    if parquet.knows(path):
        return table_rows(parquet.read_rows(path, where), where)
    if separated.knows(path):
        return table_rows(separated.read_rows(path, where, max_bytes), where)
    return read_json_rows(path, where, max_bytes)


def read_json_rows(path: Path, where: str, max_bytes: int) -> Iterator[Row | BadRecord]:
    """The records of a file of JSON, whichever way they are written."""
    head = _head(path)
    if is_binary(head[:_HEAD_BYTES]) and not head.lstrip().startswith((b"{", b"[")):
        kind = next((kind for start, kind in _CONTENTS.items() if head.startswith(start)), "")
        detail = f"the file is {kind or 'not text in UTF-8; save it as UTF-8'}"
        return iter([bad_record("not_text", where, head, detail)])
    if head.lstrip().startswith(b"["):
        return json_rows(split_array(read_chunks(path), where, max_bytes), where, "record")
    if not head.lstrip().startswith(b"{"):
        return json_rows(read_lines(path, where, max_bytes), where)
    if key := _wrapper(path, where, head):
        elements = split_array(read_chunks(path), where, max_bytes, key)
        return json_rows(elements, where, "record")
    if _on_several_lines(head):
        return json_rows(split_objects(read_chunks(path), where, max_bytes), where, "record")
    return json_rows(read_lines(path, where, max_bytes), where)


def _head(path: Path) -> bytes:
    head = b""
    try:
        for chunk in read_chunks(path):
            head += chunk if head.strip() else chunk.lstrip()
            if len(head) >= _HEAD_BYTES:
                break
    except TruncatedError:
        pass
    return head[:_HEAD_BYTES]


def _on_several_lines(head: bytes) -> bool:
    """Whether the first object goes on in a second line that does not begin an object itself."""
    first, _, rest = head.strip().partition(b"\n")
    if not rest.strip() or rest.lstrip(b"\r\n").startswith(b"{"):
        return False
    try:
        orjson.loads(first)
    except orjson.JSONDecodeError:
        return True
    return False


def _wrapper(path: Path, where: str, head: bytes) -> str:
    """The name of the array that holds the records of a file that is one object; "" for others."""
    first = head.strip().partition(b"\n")
    if first[2].strip():  # more lines
        try:
            orjson.loads(first[0])
            return ""  # and the first is a record
        except orjson.JSONDecodeError:
            pass
    for key in _WRAPPERS:
        found = re.search(rb'"%s"\s*:\s*\[' % key.encode(), head)
        before = head[: found.start()] if found else b""
        if before.count(b"{") - before.count(b"}") == 1 and _holds_records(path, key):
            return key
    return ""


def _holds_records(path: Path, key: str) -> bool:
    """Whether the elements of an array are records, not the messages of one."""
    for element in split_array(read_chunks(path), "", _HEAD_BYTES, key):
        if isinstance(element, BadRecord):
            return element.reason == "too_long"
        record = parse_json(element[1], "")
        return isinstance(record, dict) and not {"role", "from", "speaker", "sender"} & set(record)
    return False
