"""Reddit dumps of Pushshift: one JSON object a line, a comment (``RC_*``) or submission (``RS_*``).

What has a ``body`` is a comment, else what has a ``title`` a submission, so both may share a file.

=============  =====================================  ========================================
post           comment                                submission
=============  =====================================  ========================================
``post_id``    ``t1_`` + ``id``                       ``t3_`` + ``id``
``parent_id``  ``parent_id``, where null ``link_id``  ""
``thread_id``  ``link_id``                            ``t3_`` + ``id``
``text``       ``body``                               ``title``, an empty line, ``selftext``
=============  =====================================  ========================================

Both have ``author``, ``created_utc`` (a number, a text that holds one, or null) and ``subreddit``.
Identifiers may lack their prefix, ``t1_`` of comments and ``t3_`` of submissions.

The dumps escape texts once more than Reddit's Markdown, in which ``&#39;`` and ``&nbsp;`` are
characters: both are undone. Characters of no width are left out.
"""

import re
from collections.abc import Iterator
from html import unescape
from pathlib import PurePath
from typing import Any

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.lines import COMPRESSED, read_lines
from sage_core.corpus.readers import parquet
from sage_core.corpus.readers.fields import seconds, text, wrong
from sage_core.corpus.readers.reader import Reader, Recognised, Source
from sage_core.corpus.readers.rows import json_records, records_of, table_rows
from sage_core.corpus.records import Post, Record, is_gone

_SUFFIXES = (*COMPRESSED, ".ndjson", ".jsonl", ".json")
_FIELDS = ("link_id", "parent_id", "body", "title", "selftext", "author", "created_utc",
           "subreddit")  # fmt: skip
_PREFIXED = re.compile(r"t\d_")
# Without its semicolon it may be a part of an address.
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_NO_WIDTH = dict.fromkeys(map(ord, "\u200b\u2060\ufeff"))


def knows(path: PurePath) -> bool:
    """Whether a file of a folder is a dump; the first dumps had no suffix."""
    suffix = path.suffix.lower()
    return suffix in (*_SUFFIXES, ".parquet") or (
        not suffix and path.name.startswith(("RC_", "RS_"))
    )


def read(source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The posts of one dump, in its order."""
    if parquet.knows(source.file):
        rows = parquet.read_rows(source.file, source.name, ("id",), _FIELDS)
        return records_of(table_rows(rows, source.name), _of_table)
    lines = read_lines(source.file, source.name, config.max_record_bytes)
    return json_records(lines, source.name, _post)


def recognise(source: Source, config: CorpusConfig) -> Recognised | None:
    """Whether its first record is a post."""
    if not isinstance(next(read(source, config), None), Post):
        return None
    return Recognised("Reddit's posts, every path of replies a dialogue")


def _of_table(record: dict[str, Any], number: int) -> Post:
    """A table has all columns in every row, so a field that is null is not there."""
    return _post({name: value for name, value in record.items() if value is not None}, number)


def _post(record: dict[str, Any], number: int) -> Post:
    author = record.get("author") or ""
    if not isinstance(author, str):
        raise wrong(author, "author", "a text")
    if "body" in record:
        post_id = _prefixed("t1_", text(record, "id"))
        thread_id = _prefixed("t3_", text(record, "link_id"))
        parent_id = thread_id
        if record.get("parent_id") is not None:
            parent = text(record, "parent_id")
            # Comments and submissions have numbers of their own, which rarely meet in a thread.
            kind = "t3_" if f"t3_{parent}" == thread_id else "t1_"
            parent_id = _prefixed(kind, parent)
        said = _unescaped(text(record, "body"))
    else:
        post_id = thread_id = _prefixed("t3_", text(record, "id"))
        parent_id = ""
        said = _unescaped(_submission(record))
    return Post(
        post_id=post_id,
        parent_id=parent_id,
        thread_id=thread_id,
        author="" if author == "[deleted]" else author,
        created=seconds(record.get("created_utc"), "created_utc"),
        source=f"r/{text(record, 'subreddit')}",
        text=said,
    )


def _submission(record: dict[str, Any]) -> str:
    title = text(record, "title")
    body = "" if record.get("selftext") is None else text(record, "selftext")
    return title if is_gone(body) or not body.strip() else f"{title}\n\n{body}"


def _prefixed(prefix: str, name: str) -> str:
    return name if name[2:3] == "_" and _PREFIXED.match(name) else prefix + name


def _unescaped(escaped: str) -> str:
    if "&" in escaped:
        for _ in range(2):
            escaped = _ENTITY.sub(lambda entity: unescape(entity[0]), escaped)
        escaped = escaped.replace("\xa0", " ")
    return escaped.translate(_NO_WIDTH) if not escaped.isascii() else escaped


READER = Reader(
    read,
    knows,
    files="*.zst, *.bz2, *.xz, *.gz, *.ndjson, *.jsonl, *.json, *.parquet, RC_* or RS_*",
    posts=True,
    reads="Reddit dumps `RC_*` and `RS_*`, as `.zst` (long windows too), `.bz2`, `.xz`, `.gz`, "
    "plain, or Parquet",
    recognise=recognise,
)
