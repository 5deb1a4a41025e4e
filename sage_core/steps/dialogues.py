"""The dialogues that training uses (section 4.1)."""

from dataclasses import dataclass
from pathlib import Path

from sage_core import mixture
from sage_core.config.corpus import CorpusConfig
from sage_core.corpus import build
from sage_core.corpus.names import unique
from sage_core.corpus.records import DIALOGUES
from sage_core.schema import Dialogue
from sage_core.steps.base import Context, Step
from sage_core.storage import ArtifactRef, write_rows


@dataclass(frozen=True, kw_only=True)
class TrainingDialogues(Step):
    """The kept dialogues of all corpora that training uses."""

    name = "training-dialogues"
    corpora: tuple[ArtifactRef, ...]
    settings: tuple[CorpusConfig, ...]
    seed: int

    def run(self, folder: Path, context: Context) -> None:
        kept = [
            build.training_dialogues(context.folder(corpus), config, self.seed)
            for corpus, config in zip(self.corpora, self.settings, strict=True)
        ]
        drawn = mixture.draw(kept, [config.weight for config in self.settings], self.seed)
        write_rows(folder / DIALOGUES, unique(drawn), Dialogue)
