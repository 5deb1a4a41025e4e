"""Fine-tuning (sections 4.3 and 4.4)."""

from dataclasses import dataclass
from pathlib import Path

from sage_core.config.training import SFTConfig
from sage_core.schema import TrainingDialogue
from sage_core.steps.base import Context
from sage_core.steps.names import TRAINING
from sage_core.steps.progress import training_progress
from sage_core.steps.training import TrainingStep
from sage_core.storage import ArtifactRef, read_rows
from sage_core.training.sft import train_sft


@dataclass(frozen=True, kw_only=True)
class Sft(TrainingStep):
    """A LoRA checkpoint trained on dialogues.

    Attributes:
        checkpoint: the name of the model that is made.
    """

    name = "sft"
    checkpoint: str
    dialogues: ArtifactRef
    settings: SFTConfig

    def run(self, folder: Path, context: Context) -> None:
        rows = read_rows(context.folder(self.dialogues) / TRAINING, TrainingDialogue)
        job = self.job(self.checkpoint, context)
        with training_progress(context, f"train {job.name}") as on_step:
            train_sft(folder, job, rows, self.settings, context.work, on_step)
