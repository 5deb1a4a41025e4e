"""What the last finished run of the home used, by stage, from its manifests."""

import re
from dataclasses import dataclass

from sage_core.errors import ConfigError
from sage_core.storage import MANIFEST, ArtifactRef, read_json
from tasks.home import store


@dataclass(frozen=True)
class Used:
    """Tokens that the engines of a stage read and wrote, and the seconds that it took."""

    read: int = 0
    written: int = 0
    seconds: float = 0.0


def last_run() -> dict[tuple[str, str], Used]:
    """By stage and label, shards added up, of the newest report and of all that it was made from.

    Raises:
        ConfigError: the home has no finished run.
    """
    reports = list((store().root / "report").glob(f"*/{MANIFEST}"))
    if not reports:
        raise ConfigError(
            f"'{store().root.parent}' has no finished run to compare with; run `sage run` first, "
            "or set SAGE_HOME"
        )
    newest = max(reports, key=lambda path: path.stat().st_mtime)
    totals: dict[tuple[str, str], Used] = {}
    open_, seen = [newest.parent], {newest.parent}
    while open_:
        record = read_json(open_.pop() / MANIFEST)
        cost = record.get("cost", {"seconds": 0.0, "engines": {}})
        key = record["stage"], re.sub(r" ?\d+/\d+$", "", record["label"])
        before = totals.get(key, Used())
        engines = cost["engines"].values()
        totals[key] = Used(
            before.read + sum(usage["prompt_tokens"] for usage in engines),
            before.written + sum(usage["completion_tokens"] for usage in engines),
            before.seconds + cost["seconds"],
        )
        for parents in record["parents"].values():
            folders = {store().folder(ArtifactRef(**parent)) for parent in parents}
            # What was removed to save room has left no manifest.
            fresh = {folder for folder in folders - seen if (folder / MANIFEST).is_file()}
            seen |= fresh
            open_ += fresh
    return totals
