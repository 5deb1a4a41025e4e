"""Records of the corpus as Parquet, streamed both ways: only one row group is in memory.

Columns are built flat, since a dictionary per message would cost more than the filters.
"""

import gc
import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import pyarrow as pa
import pyarrow.parquet as pq

from sage_core.corpus.records import Post
from sage_core.schema import ARROW_SCHEMAS, Dialogue, Message, Rejection

ROW_GROUP = 5_000  # rows held in memory by a reader or a writer, or fewer:
ROW_GROUP_BYTES = 2**24  # the paths of a deep tree are long, and each repeats the one before
_MESSAGE_BYTES = 64  # of a message beside its text
POST_SCHEMA = pa.schema(
    [
        ("bucket", pa.int32()),
        ("thread_id", pa.string()),
        ("post_id", pa.string()),
        ("parent_id", pa.string()),
        ("author", pa.string()),
        ("created", pa.int64()),
        ("source", pa.string()),
        ("text", pa.string()),
    ]
)
Row = Dialogue | Rejection | tuple[int, Post]


class RowWriter:
    """Writes dialogues, rejections, or posts with their buckets, a row group at a time."""

    def __init__(self, path: Path, row_type: type[Dialogue] | type[Rejection] | type[Post]) -> None:
        self._schema = POST_SCHEMA if row_type is Post else ARROW_SCHEMAS[row_type]
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[Row] = []
        self._bytes = 0

    def write(self, row: Row) -> None:
        self._rows.append(row)
        self._bytes += _size(row)
        if len(self._rows) == ROW_GROUP or self._bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        columns: list[Any]
        if self._schema is POST_SCHEMA:
            columns = _columns(cast(list[tuple[int, Post]], self._rows))
        elif "messages" in self._schema.names:
            dialogues = cast(list[Dialogue], self._rows)
            columns = [
                _messages(dialogues)
                if name == "messages"
                else [getattr(dialogue, name) for dialogue in dialogues]
                for name in self._schema.names
            ]
        else:
            columns = [[getattr(row, name) for row in self._rows] for name in self._schema.names]
        self._writer.write_batch(
            pa.record_batch(
                [
                    column if isinstance(column, pa.Array) else pa.array(column, field.type)
                    for column, field in zip(columns, self._schema, strict=True)
                ],
                schema=self._schema,
            )
        )
        self._rows, self._bytes = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._rows and error is None:
            self._flush()
        self._writer.close()


def read_dialogues(path: Path, row_groups: range | None = None) -> Iterator[Dialogue]:
    """The dialogues of a file, or of some of its row groups, in order."""
    for batch in _batches(path, row_groups):
        columns = {name: batch.column(name).to_pylist() for name in ("dialogue_id", "source",
                   "thread_id", "split", "has_roles")}  # fmt: skip
        lists = batch.column("messages")
        offsets = lists.offsets.to_pylist()
        flat = lists.values
        roles = flat.field("role").to_pylist()
        contents = flat.field("content").to_pylist()
        for row, (start, end) in enumerate(itertools.pairwise(offsets)):
            yield Dialogue(
                columns["dialogue_id"][row],
                columns["source"][row],
                columns["thread_id"][row],
                tuple(map(Message, roles[start:end], contents[start:end])),
                columns["split"][row],
                columns["has_roles"][row],
            )


def read_posts(path: Path, buckets: range) -> Iterator[Post]:
    """The posts of a sorted file whose bucket is in ``buckets``, in order."""
    file = pq.ParquetFile(path)
    bucket = POST_SCHEMA.get_field_index("bucket")
    for group in range(file.num_row_groups):
        statistics = file.metadata.row_group(group).column(bucket).statistics
        if statistics.max < buckets.start or statistics.min >= buckets.stop:
            continue
        for batch in _batches(path, range(group, group + 1)):
            rows = [batch.column(field.name).to_pylist() for field in POST_SCHEMA]
            for number, thread_id, post_id, parent_id, author, created, source, text in zip(
                *rows, strict=True
            ):
                if number in buckets:
                    yield Post(post_id, parent_id, thread_id, author, created, source, text)


def concatenate(paths: Iterable[Path], target: Path, schema: pa.Schema) -> None:
    """All rows of ``paths``, in order, as one file."""
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for path in paths:
            for batch in _batches(path, None):
                writer.write_batch(batch)


@contextmanager
def rare_collections() -> Iterator[None]:
    """Look for reference cycles less often: records have none, and looking through many small
    objects again and again costs as much as making them."""
    thresholds = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


def rows_in(path: Path) -> int:
    """The number of rows of a Parquet file."""
    return int(pq.read_metadata(path).num_rows)


def holds_posts(path: Path) -> bool:
    """Whether the records of a file are posts of reply trees; else they are dialogues."""
    return bool(pq.read_schema(path).names == POST_SCHEMA.names)


def row_groups_in(path: Path) -> int:
    """The number of row groups of a Parquet file."""
    return int(pq.read_metadata(path).num_row_groups)


def _batches(path: Path, row_groups: range | None) -> Iterator[Any]:
    with pq.ParquetFile(path) as file:
        for group in row_groups if row_groups is not None else range(file.num_row_groups):
            table = file.read_row_group(group, use_threads=False).combine_chunks()
            yield from table.to_batches()


def _size(row: Row) -> int:
    """About how much a row takes of a row group."""
    if isinstance(row, Dialogue):
        return sum([_MESSAGE_BYTES + len(message.content) for message in row.messages])
    return len(row[1].text) if isinstance(row, tuple) else 0


def _columns(rows: Sequence[tuple[int, Post]]) -> list[list[Any]]:
    names = POST_SCHEMA.names[1:]
    return [
        [bucket for bucket, _ in rows],
        *([getattr(post, name) for _, post in rows] for name in names),
    ]


def _messages(dialogues: Sequence[Dialogue]) -> Any:
    flat = [message for dialogue in dialogues for message in dialogue.messages]
    offsets = [0]
    for dialogue in dialogues:
        offsets.append(offsets[-1] + len(dialogue.messages))
    kind = ARROW_SCHEMAS[Dialogue].field("messages").type
    fields = [
        pa.array([message.role for message in flat], pa.string()),
        pa.array([message.content for message in flat], pa.string()),
    ]
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()),
        pa.StructArray.from_arrays(fields, fields=list(kind.value_type)),
        type=kind,
    )
