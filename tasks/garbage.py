"""What in a SAGE home nobody needs any more.

Needed are: the artefacts of registered models, the reports of recent runs, all that either was made
from, the corpora that decisions of retraining know, and whatever was made recently. What a process
left half-made when it was killed is not needed. Call it with the home held, so that nothing is
being made.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sage_core.storage import MANIFEST, read_json
from tasks.home import sage_home, store
from tasks.lineage import ancestry
from tasks.registry import Registry, registered_models

_DAY_S = 86_400


@dataclass(frozen=True)
class Garbage:
    """A folder that can go, its size in bytes, and why."""

    path: Path
    bytes: int
    why: str


def find(days: float) -> list[Garbage]:
    """All that nobody needs, if what is younger than ``days`` is recent."""
    oldest = time.time() - days * _DAY_S
    needed = _needed(oldest)
    found = [(path, "not finished") for path in _unfinished()]
    found += [
        (path, "no registered model or recent run needs it")
        for path in _finished()
        if path not in needed
    ]
    found += [
        (path, "saved by a stage that is finished or was given up")
        for path in sorted((sage_home() / "work").glob("*/*"))
        if (store().root / path.relative_to(sage_home() / "work") / MANIFEST).is_file()
        or _changed(path) < oldest
    ]
    return [Garbage(path, _size(path), why) for path, why in found]


def remove(garbage: Garbage) -> None:
    """Remove it; the manifest goes first, so that what a kill leaves does not look finished."""
    (garbage.path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(garbage.path)


def _unfinished() -> Iterator[Path]:
    for path in sorted(store().root.glob("*/*")):
        if path.is_dir() and not (path / MANIFEST).is_file():
            yield path


def _finished() -> Iterator[Path]:
    for manifest in sorted(store().root.glob(f"*/*/{MANIFEST}")):
        if not manifest.parent.name.startswith("."):
            yield manifest.parent


def _needed(oldest: float) -> set[Path]:
    hashes: set[str] = set()
    paths: set[str] = set()
    for name in registered_models():
        registry = Registry(name)
        hashes |= registry.hashes()
        paths |= {ref["path"] for record in registry.decisions() for ref in record["corpora"]}
    needed: set[Path] = set()
    for folder in _finished():
        reference = read_json(folder / MANIFEST)["reference"]
        if (
            reference["sha256"] in hashes
            or reference["path"] in paths
            or (folder / MANIFEST).stat().st_mtime >= oldest
        ):
            needed.update(path for path, _ in ancestry(folder))
    return needed


def _changed(path: Path) -> float:
    return max(each.stat().st_mtime for each in (path, *path.rglob("*")))


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
