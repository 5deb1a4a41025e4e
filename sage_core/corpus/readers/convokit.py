"""ConvoKit corpora: a folder, or ConvoKit's zip of it, which holds ``utterances.jsonl``.

Each line is one utterance: ``id``, ``speaker`` (``user`` in old corpora; an identifier, or an
object with ``id``), ``root`` or ``conversation_id``, ``reply_to`` or ``reply-to``, ``timestamp``
and ``text``. A timestamp only orders answers to one utterance, so one that is no number is 0.
An utterance that names itself as ``reply_to`` opens its conversation, as one without it does.
``conversations.json`` and the corpus's other files are not read: an utterance holds all that a
post needs. The post's source is the name of the folder or zip, with the folders that it is in below
``corpus.input``. It is also put before its identifiers: corpora side by side may use the same ones.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import PurePath
from typing import Any, cast
from zipfile import BadZipFile, ZipExtFile, ZipFile

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.lines import bad_record, read_lines, split_lines, stream_chunks
from sage_core.corpus.readers import parquet
from sage_core.corpus.readers.fields import (
    FieldError,
    identifier,
    needed,
    seconds,
    text,
)
from sage_core.corpus.readers.reader import Reader, Recognised, Source
from sage_core.corpus.readers.rows import json_records, records_of, table_rows
from sage_core.corpus.records import Post, Record
from sage_core.storage import printable

UTTERANCES = "utterances.jsonl"


def knows(path: PurePath) -> bool:
    """Whether a file of a folder holds utterances."""
    return path.name == UTTERANCES or path.suffix.lower() == ".zip"


def read(source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The utterances of one corpus, in its order."""
    path, make = source.file, partial(_post, _corpus(source))
    if path.suffix.lower() == ".zip":
        yield from _read_zip(source, config.max_record_bytes, make)
    elif parquet.knows(path):
        rows = parquet.read_rows(path, source.name, ("id", "text"))
        yield from records_of(table_rows(rows, source.name), make)
    else:
        lines = read_lines(path, source.name, config.max_record_bytes)
        yield from json_records(lines, source.name, make)


def recognise(source: Source, config: CorpusConfig) -> Recognised | None:
    """Whether its first record is an utterance."""
    if not isinstance(next(read(source, config), None), Post):
        return None
    return Recognised("ConvoKit's utterances, every path of replies a dialogue")


def _corpus(source: Source) -> str:
    if source.file.suffix.lower() in (".zip", ".parquet"):
        return PurePath(source.name).with_suffix("").as_posix()
    folder = PurePath(source.name).parent
    # Of a corpus that is corpus.input itself only the folder has a name.
    return (
        folder.as_posix() if folder.name else printable(PurePath(source.file.resolve().parent.name))
    )


def _read_zip(
    source: Source, max_bytes: int, make: Callable[[dict[str, Any], int], Post]
) -> Iterator[Record]:
    name = source.name
    try:
        with ZipFile(source.file) as archive:
            members = [entry for entry in archive.namelist() if PurePath(entry).name == UTTERANCES]
            if not members:
                yield bad_record("missing_field", name, " ".join(archive.namelist()).encode())
            for member in members:
                where = f"{name}/{member}"
                with archive.open(member) as stream:
                    chunks = stream_chunks(cast(ZipExtFile, stream))
                    lines = split_lines(chunks, where, max_bytes)
                    yield from json_records(lines, where, make)
    # The list of files, or a file's head, or it is encrypted; its data is stream_chunks's.
    except (BadZipFile, RuntimeError) as error:
        yield bad_record("truncated", name, b"", str(error))


def _post(corpus: str, record: dict[str, Any], number: int) -> Post:
    name = needed(identifier(record, "id"), "id")
    parent = identifier(record, "reply_to", "reply-to")
    root = needed(identifier(record, "root", "conversation_id"), "root' or 'conversation_id")
    return Post(
        post_id=f"{corpus}/{name}",
        parent_id=f"{corpus}/{parent}" if parent not in ("", name) else "",
        thread_id=f"{corpus}/{root}",
        author=_author(record),
        created=_created(record.get("timestamp")),
        source=corpus,
        text=text(record, "text"),
    )


def _author(record: dict[str, Any]) -> str:
    if "speaker" not in record and "user" not in record:
        raise FieldError("missing_field", "'speaker' and 'user' are missing")
    speaker = record.get("speaker", record.get("user"))
    author = identifier(speaker if isinstance(speaker, dict) else {"id": speaker}, "id")
    return "" if author == "[deleted]" else author


def _created(timestamp: object) -> int:
    try:
        return seconds(timestamp, "timestamp")
    except FieldError:
        return 0


READER = Reader(
    read,
    knows,
    f"{UTTERANCES} or *.zip",
    posts=True,
    reads="a ConvoKit corpus, as a folder, its zip, or a table of utterances in Parquet",
    recognise=recognise,
)
