"""Rows of Parquet files, streamed a few at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sage_core.corpus.lines import bad_record
from sage_core.corpus.records import BadRecord

_BATCH_ROWS = 1000


def knows(path: PurePath) -> bool:
    """Whether a file is Parquet by its name."""
    return path.suffix.lower() == ".parquet"


def read_rows(
    path: Path, where: str, needed: Sequence[str] = (), optional: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]] | BadRecord]:
    """The rows of ``path`` with their numbers, from 1, and those of the columns that are there:
    ``needed`` and ``optional``, or with None all.

    Bad records: ``missing_field`` for every row of a file without the columns ``needed``,
    ``not_utf8`` for a row, and ``truncated`` for what cannot be read of a damaged file.
    """
    number = 0
    try:
        # A stream: pyarrow takes no path that is not UTF-8.
        with path.open("rb") as stream, pq.ParquetFile(stream) as file:
            names = file.schema_arrow.names
            if not set(needed) <= set(names):
                columns = f"columns {', '.join(names)}".encode()
                for number in range(1, file.metadata.num_rows + 1):
                    yield bad_record("missing_field", f"{where}, row {number}", columns)
                return
            wanted = None
            if optional is not None:
                wanted = [name for name in names if name in (*needed, *optional)]
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
                for row in _values(batch):
                    number += 1
                    if row is None:
                        yield bad_record("not_utf8", f"{where}, row {number}", b"")
                    else:
                        yield number, row
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's
            raise
        sample = str(error).encode()
        yield bad_record(
            "truncated", f"{where}, row {number + 1}", sample, "not readable as Parquet"
        )


def _values(batch: Any) -> list[dict[str, Any] | None]:
    """The rows of a batch; None for one whose text is not UTF-8, which Parquet lets through."""
    try:
        rows: list[dict[str, Any] | None] = batch.to_pylist()
    except UnicodeDecodeError:
        if batch.num_rows == 1:
            return [None]
        return [row for at in range(batch.num_rows) for row in _values(batch.slice(at, 1))]
    return rows
