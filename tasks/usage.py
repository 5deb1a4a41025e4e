"""What the last finished run of the home used, by stage, from its manifests."""

import re
from dataclasses import dataclass
from pathlib import Path

from sage_core.errors import ConfigError
from sage_core.storage import ArtifactStore
from tasks.home import store
from tasks.lineage import ancestry, newest


@dataclass(frozen=True)
class Used:
    """Tokens that the engines of a stage read and wrote, and the seconds that it took."""

    read: int = 0
    written: int = 0
    seconds: float = 0.0


def last_run() -> dict[tuple[str, str], Used]:
    """:func:`of_run` of the home's newest report.

    Raises:
        ConfigError: the home has no finished run.
    """
    report = next(newest("report"), None)
    if report is None:
        raise ConfigError(
            f"'{store().root.parent}' has no finished run to compare with; run `sage run` first, "
            "or set SAGE_HOME"
        )
    return of_run(report)


def of_run(report: Path) -> dict[tuple[str, str], Used]:
    """By stage and label, shards added up, of a report and of all that it was made from."""
    totals: dict[tuple[str, str], Used] = {}
    for _, record in ancestry(report, ArtifactStore(report.parents[1])):
        cost = record.get("cost", {"seconds": 0.0, "engines": {}})
        key = record["stage"], re.sub(r" ?\d+/\d+$", "", record["label"])
        before = totals.get(key, Used())
        engines = cost["engines"].values()
        totals[key] = Used(
            before.read + sum(usage["prompt_tokens"] for usage in engines),
            before.written + sum(usage["completion_tokens"] for usage in engines),
            before.seconds + cost["seconds"],
        )
    return totals
