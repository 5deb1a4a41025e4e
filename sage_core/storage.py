"""Artefacts: folders that appear whole or not at all.

An artefact is built in a temporary folder beside its final place, its files are hashed, the
manifest is written last and the folder is renamed into place. So a folder that has a manifest is
finished, and a killed run leaves nothing that a later one would take for finished. The reference
that moves between tasks holds the hash of all files but the manifest; :meth:`ArtifactStore.verify`
checks it against the disk.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from pathlib import Path, PurePath
from typing import Any, TypeVar
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from sage_core.errors import ArtifactError, DataError
from sage_core.schema import ARROW_SCHEMAS

MANIFEST = "manifest.json"
_DISK_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
)
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how Rust's errors end
Row = TypeVar("Row")


@dataclass(frozen=True)
class ArtifactRef:
    """A finished artefact: its folder, relative to the store, its hash, and its size in bytes."""

    path: str
    sha256: str
    bytes: int


class ArtifactStore:
    """The folder that all artefacts of a SAGE home lie in."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, ref: ArtifactRef) -> Path:
        """Where the files of ``ref`` lie."""
        return self.root / ref.path

    def build(
        self, name: str, write: Callable[[Path], None], manifest: dict[str, Any]
    ) -> ArtifactRef:
        """Make the artefact ``name``: ``write`` fills an empty folder, which is then published.

        ``manifest`` says where the artefact comes from (parents, hashes, seed); the files and the
        reference are added to it. An artefact already there is replaced.

        Raises:
            ArtifactError: the disk refused; nothing is left behind.
        """
        final = self.root / name
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            building = final.with_name(f".{final.name}.{uuid4().hex}")
            building.mkdir()
        except OSError as error:
            raise _disk_error(name, error) from error
        try:
            write(building)
            files = _hash_files(building)
            ref = _reference(name, files)
            record = {**manifest, "files": files, "reference": asdict(ref)}
            write_json(building / MANIFEST, record)
            if final.exists():
                shutil.move(final, building / ".replaced")
            building.rename(final)
            shutil.rmtree(final / ".replaced", ignore_errors=True)
        except Exception as error:
            if _of_the_disk(error):
                raise _disk_error(name, error) from error
            raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return ref

    def verify(self, ref: ArtifactRef) -> bool:
        """Whether the artefact is there, finished, and byte for byte what ``ref`` says."""
        folder = self.folder(ref)
        if not (folder / MANIFEST).is_file():
            return False
        return _reference(ref.path, _hash_files(folder)) == ref

    def find(self, name: str) -> ArtifactRef | None:
        """The artefact ``name`` if it is there, finished and unchanged."""
        manifest = self.root / name / MANIFEST
        if not manifest.is_file():
            return None
        ref = ArtifactRef(**read_json(manifest)["reference"])
        return ref if self.verify(ref) else None

    def forget(self, ref: ArtifactRef) -> None:
        """Take the artefact for unfinished from now on, so that it is made again."""
        (self.folder(ref) / MANIFEST).unlink(missing_ok=True)

    def manifest(self, ref: ArtifactRef) -> dict[str, Any]:
        """What :meth:`build` recorded of the artefact."""
        record: dict[str, Any] = read_json(self.folder(ref) / MANIFEST)
        return record


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spare white space, so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``, in hexadecimal."""
    # A path may hold surrogates: the bytes of a name that is not UTF-8.
    text = canonical_json(value).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()


def printable(path: PurePath) -> str:
    """A path with ``/`` as text that can be written; bytes that are not UTF-8 as ``\\xff``."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def content_hash(folder: Path) -> str:
    """The hash of all files below ``folder`` but its manifest: of an artefact, the ``sha256`` of
    its reference."""
    return digest(_hash_files(folder))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: missing, or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"'{path}' does not exist; check the path") from None
    except ValueError as error:
        raise DataError(f"'{path}' is not JSON: {error}") from None


def write_rows(path: Path, rows: Iterable[Row], row_type: type[Row]) -> None:
    """Write records to a Parquet file under the schema of their type."""
    table = pa.Table.from_pylist(
        [asdict(row) for row in rows],  # type: ignore[call-overload]
        schema=ARROW_SCHEMAS[row_type],
    )
    pq.write_table(table, path, compression="zstd")


def read_rows(path: Path, row_type: type[Row]) -> list[Row]:
    """Read records from a Parquet file, or from a folder of Parquet files in order of name.

    Columns that the type does not have are ignored; a column of a field with a default may be
    missing.

    Raises:
        DataError: missing, not Parquet, or without the columns of ``row_type``.
    """
    paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not path.exists() or not paths:
        raise DataError(f"'{path}' is not a Parquet file or a folder of them; check the path")
    columns = ARROW_SCHEMAS[row_type].names
    needed = {field.name for field in fields(row_type) if field.default is MISSING}  # type: ignore[arg-type]
    rows: list[Row] = []
    for file in paths:
        try:
            found = set(pq.read_schema(file).names)
            missing = sorted(needed - found)
            there = [column for column in columns if column in found]
            read = [] if missing else pq.read_table(file, columns=there).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"'{file}' cannot be read as Parquet: {error}") from None
        if missing:
            raise DataError(
                f"'{file}' lacks the columns {missing}; a table of {row_type.__name__} has "
                f"{columns}"
            )
        adapter: TypeAdapter[list[Row]] = _adapter(row_type)  # type: ignore[arg-type]
        try:
            rows.extend(adapter.validate_python(read))
        except ValidationError as error:
            row = error.errors()[0]["loc"][0]
            raise DataError(
                f"'{file}', row {row} (from 0), is not a {row_type.__name__}: "
                f"{first_problem(error)}"
            ) from None
    return rows


def first_problem(error: ValidationError) -> str:
    """The first complaint of a validation in words; for literals pydantic lists the choices."""
    first = error.errors()[0]
    fields = [part for part in first["loc"] if isinstance(part, str)]
    if first["type"] in ("missing", "missing_argument"):
        return f"the field '{fields[-1]}' is missing"
    where = f"{fields[-1]} = " if fields else ""
    return f"{where}{first['input']!r}: {first['msg']}"


def shards(items: Sequence[Row], size: int) -> list[Sequence[Row]]:
    """Cut ``items`` into consecutive parts of ``size``, the last one possibly smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]


@cache
def _adapter(row_type: Any) -> TypeAdapter[list[Any]]:
    return TypeAdapter(list[row_type])


def _hash_files(folder: Path) -> dict[str, dict[str, Any]]:
    """SHA-256 and size of every file below ``folder`` but its manifest, by relative path."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name != MANIFEST:
            with path.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            files[name] = {"sha256": sha256, "bytes": path.stat().st_size}
    return files


def _reference(name: str, files: dict[str, dict[str, Any]]) -> ArtifactRef:
    size = sum(int(file["bytes"]) for file in files.values())
    return ArtifactRef(path=name, sha256=digest(files), bytes=size)


def _of_the_disk(error: BaseException | None) -> bool:
    """Whether the disk refused, by the error or what it came from. Libraries that write by
    themselves raise errors of their own (``SafetensorError``, ``duckdb.IOException``), which carry
    the system's message, and Rust's the number too."""
    while error is not None:
        text = str(error)
        number = _OS_ERROR.search(text)
        if (
            (isinstance(error, OSError) and error.errno in _DISK_ERRORS)
            or (number and int(number[1]) in _DISK_ERRORS)
            or os.strerror(errno.ENOSPC) in text
        ):
            return True
        error = error.__cause__
    return False


def _disk_error(name: str, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"the artefact '{name}' could not be written: {error}; free space or set SAGE_HOME to a "
        "folder on another disk, then start again: finished work is kept"
    )
