"""The dialogues that a round of retraining starts from: new ones and a share of old ones."""

from dataclasses import dataclass
from pathlib import Path
from random import Random

from sage_core import mixture
from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.records import DIALOGUES
from sage_core.corpus.unseen import content, unseen_dialogues
from sage_core.schema import Dialogue
from sage_core.steps.base import Context, Step
from sage_core.steps.tables import rows_of
from sage_core.storage import ArtifactRef, write_rows


@dataclass(frozen=True, kw_only=True)
class NewDialogues(Step):
    """The dialogues of all corpora that no known corpus has; may be empty."""

    name = "new-dialogues"
    corpora: tuple[ArtifactRef, ...]
    known: tuple[ArtifactRef, ...]
    settings: tuple[CorpusConfig, ...]
    seed: int

    def run(self, folder: Path, context: Context) -> None:
        known = [context.folder(ref) for ref in self.known]
        kept = [
            unseen_dialogues(context.folder(corpus), known, config, self.seed)
            for corpus, config in zip(self.corpora, self.settings, strict=True)
        ]
        found = [each for each in zip(kept, self.settings, strict=True) if each[0]]
        drawn = []
        if found:
            rows = [rows for rows, _ in found]
            drawn = mixture.draw(rows, [config.weight for _, config in found], self.seed)
        write_rows(folder / DIALOGUES, drawn, Dialogue)


@dataclass(frozen=True, kw_only=True)
class RoundDialogues(Step):
    """New dialogues, and as many of the ``old`` ones that their share of all is ``replay``."""

    name = "round-dialogues"
    new: ArtifactRef
    old: tuple[ArtifactRef, ...]
    replay: float
    seed: int

    def run(self, folder: Path, context: Context) -> None:
        new = rows_of(context, [self.new], DIALOGUES, Dialogue)
        seen = {content(row): row for row in rows_of(context, self.old, DIALOGUES, Dialogue)}
        for row in new:
            seen.pop(content(row), None)
        number = min(len(seen), round(len(new) * self.replay / (1 - self.replay)))
        again = Random(self.seed).sample([seen[key] for key in sorted(seen)], number)
        write_rows(folder / DIALOGUES, [*new, *again], Dialogue)
