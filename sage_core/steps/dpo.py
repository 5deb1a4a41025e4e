"""Preference learning (section 4.5)."""

from dataclasses import dataclass
from pathlib import Path

from sage_core.config.model import ModelConfig
from sage_core.config.training import DPOConfig, LoraConfig, TrainingConfig
from sage_core.schema import PreferencePair
from sage_core.steps.base import Context, Model, Step
from sage_core.steps.names import PREFERENCES
from sage_core.steps.progress import training_progress
from sage_core.storage import ArtifactRef, read_rows
from sage_core.training.dpo import train_dpo
from sage_core.training.job import Job


@dataclass(frozen=True, kw_only=True)
class Dpo(Step):
    """The last refined model after preference learning."""

    name = "dpo"
    pairs: ArtifactRef
    parent: Model
    settings: DPOConfig
    lora: LoraConfig
    training: TrainingConfig
    model: ModelConfig
    seed: int

    def run(self, folder: Path, context: Context) -> None:
        rows = read_rows(context.folder(self.pairs) / PREFERENCES, PreferencePair)
        job = Job(
            "dpo",
            context.folder(self.parent.base),
            context.folder(self.parent.adapter) if self.parent.adapter else None,
            self.model,
            self.lora,
            self.training,
            self.seed,
        )
        with training_progress(context, f"train {job.name}") as on_step:
            train_dpo(folder, job, rows, self.settings, context.work, on_step)
