"""What trainings have in common."""

from dataclasses import dataclass

from sage_core.config.model import ModelConfig
from sage_core.config.training import LoraConfig, TrainingConfig
from sage_core.steps.base import Context, Model, Step
from sage_core.training.job import Job


@dataclass(frozen=True, kw_only=True)
class TrainingStep(Step):
    """A LoRA checkpoint.

    Attributes:
        parent: the model that training starts from.
    """

    parent: Model
    lora: LoraConfig
    training: TrainingConfig
    model: ModelConfig
    seed: int

    def job(self, checkpoint: str, context: Context) -> Job:
        """The training of the model that is called ``checkpoint``."""
        parent = self.parent
        return Job(
            checkpoint,
            context.folder(parent.base),
            context.folder(parent.adapter) if parent.adapter else None,
            self.model,
            self.lora,
            self.training,
            self.seed,
        )
