"""DuckDB for tables that do not fit into memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sage_core.errors import ConfigError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


@contextmanager
def database(spill: Path, memory_mb: int) -> Iterator["DuckDBPyConnection"]:
    """A database in memory that puts what ``memory_mb`` does not hold into the folder ``spill``,
    which is gone afterwards. Where memory was too little it may stay, empty.

    Raises:
        ConfigError: ``memory_mb`` does not hold what has to stay in memory.
    """
    import duckdb

    settings = {
        "memory_limit": f"{memory_mb}MB",
        "threads": "1",  # each takes as much again
        "temp_directory": str(spill),
    }
    try:
        with duckdb.connect(config=settings) as connection:
            yield connection
    except duckdb.OutOfMemoryException as error:
        raise ConfigError(
            f"corpus.sort_memory_mb = {memory_mb} is too little; raise it "
            f"({str(error).splitlines()[0]})"
        ) from None
    if spill.exists():
        spill.rmdir()
