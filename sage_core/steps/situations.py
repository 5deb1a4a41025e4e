"""The situations that open simulated conversations (section 4.4)."""

from dataclasses import dataclass
from pathlib import Path

from sage_core.config.conversation import SituationsConfig
from sage_core.schema import Situation, Split
from sage_core.search.situations import situations
from sage_core.steps.base import Context, Step
from sage_core.steps.names import SITUATIONS
from sage_core.storage import write_rows


@dataclass(frozen=True, kw_only=True)
class Situations(Step):
    """The situations of one half.

    Attributes:
        limit: how many; 0 = all.
        source: the hash of the input.
    """

    name = "situations"
    settings: SituationsConfig
    split: Split
    limit: int
    source: str

    def run(self, folder: Path, context: Context) -> None:
        rows = situations(self.settings, self.split, self.limit)
        write_rows(folder / SITUATIONS, rows, Situation)
