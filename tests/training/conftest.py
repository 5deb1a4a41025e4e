"""Jobs on the tiny model in float32, and trainers for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_examples import FLOAT

from sage_core.config.training import LoraConfig, TrainingConfig
from sage_core.training.data import Usable
from sage_core.training.job import Job, no_progress
from sage_core.training.method import Method, Training
from sage_core.training.tokens import Encoder


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


@pytest.fixture(scope="session")
def trainer_on(chatml_tokenizer: Any) -> Callable[..., Any]:
    """Makes the trainer of a method on eight examples."""

    def make(
        method: Method[Any, Any], model: Any, examples: Any, settings: Any, job: Job, work: Path
    ) -> Any:
        from sage_core.training.trainers import trainer_of

        usable = Usable(examples, list(range(8)), {})
        training = Training.of(method, usable, settings, Encoder(chatml_tokenizer))
        return trainer_of(
            method, training, model, chatml_tokenizer, job, work, no_progress,
            packed=job.training.packing,
        )  # fmt: skip

    return make
