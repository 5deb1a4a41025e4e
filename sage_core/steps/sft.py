"""Fine-tuning (sections 4.3 and 4.4)."""

from dataclasses import dataclass
from pathlib import Path

from sage_core.config.model import ModelConfig
from sage_core.config.training import LoraConfig, SFTConfig, TrainingConfig
from sage_core.schema import TrainingDialogue
from sage_core.steps.base import Context, Model, Step
from sage_core.steps.names import TRAINING
from sage_core.steps.progress import training_progress
from sage_core.storage import ArtifactRef, read_rows
from sage_core.training.job import Job
from sage_core.training.sft import train_sft


@dataclass(frozen=True, kw_only=True)
class Sft(Step):
    """A LoRA checkpoint trained on dialogues.

    Attributes:
        checkpoint: the name of the model that is made.
        parent: the model that training starts from.
    """

    name = "sft"
    checkpoint: str
    dialogues: ArtifactRef
    parent: Model
    settings: SFTConfig
    lora: LoraConfig
    training: TrainingConfig
    model: ModelConfig
    seed: int

    def run(self, folder: Path, context: Context) -> None:
        rows = read_rows(context.folder(self.dialogues) / TRAINING, TrainingDialogue)
        job = Job(
            self.checkpoint,
            context.folder(self.parent.base),
            context.folder(self.parent.adapter) if self.parent.adapter else None,
            self.model,
            self.lora,
            self.training,
            self.seed,
        )
        with training_progress(context, f"train {job.name}") as on_step:
            train_sft(folder, job, rows, self.settings, context.work, on_step)
