"""A reward model as selector."""

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from sage_core.config.search import SelectorConfig
from sage_core.engines.memory import droppable
from sage_core.errors import ConfigError
from sage_core.schema import Message
from sage_core.search.selectors.scores import Score, ScoreSelector
from sage_core.search.selectors.selector import Inputs, Selector, SelectorKind


def check_reward_model(folder: Path) -> None:
    """Check that ``folder`` holds a model with one output.

    Raises:
        ConfigError: it does not.
    """
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"search.selector.reward_model = '{folder}' is not a model folder; give one with "
            "config.json, weights and tokenizer, as save_pretrained writes it"
        )
    from transformers import AutoConfig

    outputs = AutoConfig.from_pretrained(folder, trust_remote_code=False).num_labels
    if outputs != 1:
        raise ConfigError(
            f"search.selector.reward_model = '{folder}' has {outputs} outputs; a reward model has "
            "one (num_labels=1)"
        )


def load_reward_model(folder: Path, device: str) -> Score:
    """The reward model's output for a conversation, through its chat template where it has one,
    else for the pair (history, reply).

    Raises:
        ConfigError: see :func:`check_reward_model`.
    """
    check_reward_model(folder)
    import torch

    tokenizer, model = _reward_model(folder, device)
    limit = getattr(model.config, "max_position_embeddings", None) or 512

    def score(utterance: str, history: tuple[Message, ...]) -> float:
        if tokenizer.chat_template:
            messages = [{"role": m.role, "content": m.content} for m in history]
            messages.append({"role": "assistant", "content": utterance})
            text = tokenizer.apply_chat_template(messages, tokenize=False)
            inputs = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        else:
            said = "\n".join(message.content for message in history)
            inputs = tokenizer(said, utterance, return_tensors="pt")
        cut = {name: rows[:, -limit:].to(device) for name, rows in inputs.items()}  # keeps the end
        with torch.inference_mode():
            return float(model(**cut).logits[0, 0])

    return score


@droppable
def release() -> None:
    """Forget the reward model in memory."""
    _reward_model.cache_clear()


@lru_cache(maxsize=1)
def _reward_model(folder: Path, device: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        folder, use_safetensors=True, trust_remote_code=False
    )
    return tokenizer, model.to(device).eval()


def _folder(settings: SelectorConfig) -> Path:
    assert settings.reward_model is not None, "the configuration has checked it"
    return settings.reward_model


def _made(inputs: Inputs) -> Selector:
    from sage_core.engines.loading import device_of  # imports torch

    score = load_reward_model(_folder(inputs.settings), device_of(inputs.model))
    return ScoreSelector(score, independent=False)


def _check(settings: SelectorConfig, options: int) -> None:
    check_reward_model(_folder(settings))


def _files(settings: SelectorConfig) -> str:
    """A search is stale where the files of its reward model are others."""
    digest = hashlib.sha256()
    for path in sorted(path for path in _folder(settings).rglob("*") if path.is_file()):
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


SELECTOR = SelectorKind(_made, check=_check, files=_files)
