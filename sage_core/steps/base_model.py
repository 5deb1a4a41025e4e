"""m0 (section 4)."""

from dataclasses import dataclass
from pathlib import Path

from sage_core.config.model import ModelConfig
from sage_core.engines import loading
from sage_core.steps.base import Context, Step


@dataclass(frozen=True, kw_only=True)
class BaseModel(Step):
    """m0: the base folder, dequantised or pointed to."""

    name = "base-model"
    model: ModelConfig

    def run(self, folder: Path, context: Context) -> None:
        loading.prepare_base(folder, self.model)
