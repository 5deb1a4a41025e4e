"""Where an artefact comes from: its manifest and those of all that it was made from."""

from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from sage_core.storage import MANIFEST, ArtifactRef, ArtifactStore, read_json
from tasks.home import store


def ancestry(
    folder: Path, kept_in: ArtifactStore | None = None
) -> list[tuple[Path, dict[str, Any]]]:
    """The folders and manifests of all that an artefact was made from, and last its own; each once,
    after its own parents. What was removed to save room, or has no manifest, is left out.
    ``kept_in``: the store that they are in, by default the home's."""
    kept_in = kept_in or store()
    records: dict[Path, dict[str, Any]] = {}
    parents: dict[Path, list[Path]] = {}
    open_ = [folder]
    while open_:
        found = open_.pop()
        if found in records or not (found / MANIFEST).is_file():
            continue
        records[found] = read_json(found / MANIFEST)
        parents[found] = [
            kept_in.folder(ArtifactRef(**parent))
            for refs in records[found].get("parents", {}).values()
            for parent in refs
        ]
        open_ += reversed(parents[found])
    ordered = TopologicalSorter(parents).static_order()
    return [(path, records[path]) for path in ordered if path in records]


def newest(stage: str) -> Iterator[Path]:
    """The folders of a stage's artefacts, the one made last first."""
    manifests = (store().root / stage).glob(f"*/{MANIFEST}")
    ordered = sorted(manifests, key=lambda path: path.stat().st_mtime, reverse=True)
    return (path.parent for path in ordered)
