"""Jobs on the tiny model in float32."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_examples import FLOAT

from sage_core.config import LoraConfig, TrainingConfig
from sage_core.training.job import Job


@pytest.fixture(scope="session")
def job(tiny_base: Path) -> Callable[..., Job]:
    """Makes a job on the tiny model from what differs."""

    def make(parent: Path | None = None, name: str = "m1", **changes: Any) -> Job:
        training = {
            key: changes.pop(key) for key in list(changes) if key in TrainingConfig.model_fields
        }
        model = FLOAT.model_copy(
            update={key: changes.pop(key) for key in list(changes) if key in ("dtype", "device")}
        )
        lora = LoraConfig(**{"rank": 4, "alpha": 8, **changes})
        settings = TrainingConfig(**{"save_steps": 0, **training})
        return Job(name, tiny_base, parent, model, lora, settings, 0)

    return make
