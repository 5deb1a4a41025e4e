"""Training text of annotated dialogues (sections 4.2 and 4.3)."""

from dataclasses import dataclass
from pathlib import Path

from sage_core import mixture
from sage_core.config.conversation import ConversationConfig
from sage_core.config.mixture import MixtureConfig
from sage_core.corpus.readers import READERS
from sage_core.named import Named
from sage_core.schema import AnnotatedDialogue, TrainingDialogue
from sage_core.steps.base import Context, Step
from sage_core.steps.names import INSTRUCTIONS, SAC, TRAINING
from sage_core.storage import ArtifactRef, read_rows, write_json, write_rows


@dataclass(frozen=True, kw_only=True)
class ChainText(Step):
    """Training text: State-Action Chains for m1, the bare utterances for raw.

    Attributes:
        source: the hash of the instruction data.
    """

    name = "chain-text"
    annotated: ArtifactRef
    states: bool
    settings: MixtureConfig
    conversation: ConversationConfig
    source: str
    seed: int

    @property
    def named(self) -> tuple[Named, ...]:
        instructions = self.settings.instructions
        return READERS.resolve(instructions.reader) if instructions else ()

    def run(self, folder: Path, context: Context) -> None:
        rows = read_rows(context.folder(self.annotated) / SAC, AnnotatedDialogue)
        blended = mixture.blend(rows, self.settings.blend, self.seed)
        dialogues = mixture.training_text(blended, self.conversation, states=self.states)
        if settings := self.settings.instructions:
            instructions = mixture.read_instructions(settings)
            write_json(folder / INSTRUCTIONS, instructions.counts)
            dialogues = mixture.with_instructions(
                dialogues, instructions.dialogues, settings.share, self.seed
            )
        write_rows(folder / TRAINING, dialogues, TrainingDialogue)
