"""The situations of a round of retraining."""

from dataclasses import dataclass
from pathlib import Path
from random import Random

from sage_core.config.conversation import SituationsConfig
from sage_core.schema import Situation, Split
from sage_core.search.situations import situations
from sage_core.steps.base import Context, Step
from sage_core.steps.names import SITUATIONS
from sage_core.storage import write_rows


@dataclass(frozen=True, kw_only=True)
class RoundSituations(Step):
    """Situations of one half that no earlier round has used, in a random order.

    Attributes:
        limit: how many; 0 = all.
        used: the ids of those that earlier rounds have used.
        again: fill up with used ones where too few are left.
        source: the hash of the input.
    """

    name = "round-situations"
    settings: SituationsConfig
    split: Split
    limit: int
    used: tuple[str, ...]
    again: bool
    source: str
    seed: int

    def run(self, folder: Path, context: Context) -> None:
        rows = situations(self.settings, self.split, 0)
        Random(self.seed).shuffle(rows)
        used = set(self.used)
        rows.sort(key=lambda row: row.situation_id in used)  # stable: the order within stays
        if not self.again:
            rows = [row for row in rows if row.situation_id not in used]
        write_rows(folder / SITUATIONS, rows[: self.limit or None], Situation)
