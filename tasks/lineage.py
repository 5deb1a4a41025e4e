"""Where an artefact comes from: its manifest and those of all that it was made from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sage_core.storage import MANIFEST, ArtifactRef, read_json
from tasks.home import store


def ancestry(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder and manifest of an artefact, then of its parents and theirs, each once, nearest
    first. What was removed to save room, or has no manifest, is left out."""
    open_, seen = [folder], {folder}
    while open_:
        found = open_.pop(0)
        if not (found / MANIFEST).is_file():
            continue
        record = read_json(found / MANIFEST)
        yield found, record
        parents = [
            store().folder(ArtifactRef(**parent))
            for refs in record["parents"].values()
            for parent in refs
        ]
        fresh = [parent for parent in dict.fromkeys(parents) if parent not in seen]
        seen.update(fresh)
        open_ += fresh


def newest(stage: str) -> Iterator[Path]:
    """The folders of a stage's artefacts, the one made last first."""
    manifests = (store().root / stage).glob(f"*/{MANIFEST}")
    ordered = sorted(manifests, key=lambda path: path.stat().st_mtime, reverse=True)
    return (path.parent for path in ordered)
