"""Trying the base model before a run: load it, and find out how it generates and how it is trained.

A model that cannot be used is refused here, in seconds, before any other work. One whose weights
take minutes to load is not tried; each stage that loads it tests it all the same.
"""

from importlib.metadata import version
from pathlib import Path

from sage_core.config.model import ModelConfig
from sage_core.config.training import LoraConfig, TrainingConfig
from sage_core.engines.loading import weights_bytes
from sage_core.training.lora_targets import reach_in

_LARGEST = 6e9  # bytes of weights
_LIBRARIES = ("peft", "torch", "transformers", "trl")


def libraries() -> tuple[str, ...]:
    """The libraries that decide how a model runs, with their versions."""
    return tuple(f"{name} {version(name)}" for name in _LIBRARIES)


def try_model(
    base: Path, model: ModelConfig, lora: LoraConfig, training: TrainingConfig
) -> dict[str, str]:
    """How the model of a base folder generates (``generation``) and is trained (``training``), and
    what of it is adapted (``lora``), in words.

    Raises:
        ConfigError: it does not have LoRA's targets.
        EngineError: it cannot be loaded, or fails on plain text.
    """
    reach = str(reach_in(base, lora))
    size = weights_bytes(base)
    if size is None or size > _LARGEST:
        later = "tested when it is loaded, since that takes minutes"
        return {"generation": later, "training": later, "lora": reach}

    from sage_core.engines.loaded_model import loaded_model
    from sage_core.training.self_test import passes_of

    loaded = loaded_model(base, model)
    passes = passes_of(loaded.model, loaded.tokenizer, training)
    return {"generation": str(loaded.generation), "training": str(passes), "lora": reach}
