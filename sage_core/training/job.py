"""What every training needs beside its examples and its settings."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sage_core.config.model import ModelConfig
from sage_core.config.training import LoraConfig, TrainingConfig
from sage_core.storage import read_json

TRAINING_LOG = "training_log.json"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """A checkpoint to be trained.

    Attributes:
        name: the model's, for the lineage: raw, m1, m2, ..., dpo.
        base: the folder of m0.
        parent: the checkpoint to start from; None for a first one.
    """

    name: str
    base: Path
    parent: Path | None
    model: ModelConfig
    lora: LoraConfig
    training: TrainingConfig
    seed: int

    def as_json(self) -> dict[str, Any]:
        """As plain JSON, with whole paths, for another process."""
        return {
            **asdict(self),
            "base": str(self.base.resolve()),
            "parent": str(self.parent.resolve()) if self.parent else None,
            **{
                name: getattr(self, name).model_dump(mode="json")
                for name in ("model", "lora", "training")
            },
        }

    @classmethod
    def of_json(cls, record: dict[str, Any]) -> "Job":
        """What :meth:`as_json` gave."""
        return cls(
            record["name"],
            Path(record["base"]),
            Path(record["parent"]) if record["parent"] else None,
            ModelConfig.model_validate(record["model"]),
            LoraConfig.model_validate(record["lora"]),
            TrainingConfig.model_validate(record["training"]),
            record["seed"],
        )


def no_progress(step: int, steps: int) -> None:
    """For those who do not watch."""


def read_log(folder: Path) -> dict[str, Any]:
    """What training logged: ``examples`` used, ``left_out`` by reason, ``steps`` and ``history``, a
    list of metrics by step."""
    log: dict[str, Any] = read_json(folder / TRAINING_LOG)
    return log


def read_losses(folder: Path) -> list[tuple[int, float]]:
    """(step, loss) of every logged optimiser step of a checkpoint."""
    return [(int(entry["step"]), float(entry["loss"])) for entry in read_log(folder)["history"]]
