"""m0 in use, before anything is made with it."""

from dataclasses import dataclass
from pathlib import Path

from sage_core.config.model import ModelConfig
from sage_core.config.training import LoraConfig, TrainingConfig
from sage_core.execution import note
from sage_core.steps.base import Context, Step
from sage_core.steps.names import TRIAL
from sage_core.storage import ArtifactRef, write_json
from sage_core.trial import try_model


@dataclass(frozen=True, kw_only=True)
class ModelTrial(Step):
    """How m0 generates and is trained, and what LoRA reaches in it; a model that cannot be used is
    refused.

    Attributes:
        libraries: what decides it besides the model, with versions.
    """

    name = "model-trial"
    base: ArtifactRef
    model: ModelConfig
    lora: LoraConfig
    training: TrainingConfig
    libraries: tuple[str, ...]

    def run(self, folder: Path, context: Context) -> None:
        found = try_model(context.folder(self.base), self.model, self.lora, self.training)
        write_json(folder / TRIAL, found)
        for what, how in found.items():
            note(what, how)
