"""What flows look up to build steps: hashes of input files, sizes of tables."""

import hashlib
from pathlib import Path

import pyarrow.parquet as pq

from sage_core.storage import ArtifactRef, digest, printable
from tasks.home import store

_HASHED_BYTES = 2**30


def source_hash(path: Path | None) -> str:
    """SHA-256 of an input, so that a changed one is read again; '' for packaged data and for a
    name on a hub. Of a folder, and of a file too large to read twice, the names, sizes and times
    of change stand for the content.
    """
    if path is None or not path.exists():
        return ""
    if path.is_file() and path.stat().st_size <= _HASHED_BYTES:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return digest(
        [
            [printable(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns]
            for file in files
            if file.is_file()
        ]
    )


def count(ref: ArtifactRef, name: str) -> int:
    """The number of rows of an artefact's Parquet file."""
    return int(pq.read_metadata(store().folder(ref) / name).num_rows)
