"""Preference learning (section 4.5)."""

from dataclasses import dataclass
from pathlib import Path

from sage_core.config.training import DPOConfig
from sage_core.schema import PreferencePair
from sage_core.steps.base import Context
from sage_core.steps.names import PREFERENCES
from sage_core.steps.progress import training_progress
from sage_core.steps.training import TrainingStep
from sage_core.storage import ArtifactRef, read_rows
from sage_core.training.dpo import train_dpo


@dataclass(frozen=True, kw_only=True)
class Dpo(TrainingStep):
    """The last refined model after preference learning."""

    name = "dpo"
    pairs: ArtifactRef
    settings: DPOConfig

    def run(self, folder: Path, context: Context) -> None:
        rows = read_rows(context.folder(self.pairs) / PREFERENCES, PreferencePair)
        job = self.job("dpo", context)
        with training_progress(context, f"train {job.name}") as on_step:
            train_dpo(folder, job, rows, self.settings, context.work, on_step)
