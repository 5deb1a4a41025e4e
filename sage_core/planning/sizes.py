"""How many parameters a model has, and its adapter, from the numbers of its configuration."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sage_core.config.model import EMBEDDED_MODEL, ModelConfig
from sage_core.config.plan import ModelSizeConfig, PlanConfig
from sage_core.config.training import LoraConfig
from sage_core.errors import ConfigError
from sage_core.training.lora_targets import known_targets

# Facts of the models' config.json.
MODELS = {
    EMBEDDED_MODEL: ModelSizeConfig(
        layers=30, hidden_size=576, intermediate_size=1536, heads=9, kv_heads=3, head_size=64,
        vocabulary=49152, tied_embeddings=True,
    ),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": ModelSizeConfig(
        layers=32, hidden_size=4096, intermediate_size=14336, heads=32, kv_heads=8, head_size=128,
        vocabulary=32000, experts=8, active_experts=2,
    ),
}  # fmt: skip
_TYPES = {EMBEDDED_MODEL: "llama", "mistralai/Mixtral-8x7B-Instruct-v0.1": "mixtral"}
_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def model_size(config: ModelConfig, plan: PlanConfig) -> ModelSizeConfig:
    """The size of ``config.base``: as set, from the ``config.json`` of its folder, or known.

    Raises:
        ConfigError: none of the three, or the file lacks a number.
    """
    if plan.model:
        return plan.model
    path = Path(config.base) / "config.json"
    if path.is_file():
        return _size_of(path)
    if config.base in MODELS:
        return MODELS[config.base]
    raise ConfigError(
        f"the size of model.base = '{config.base}' is not known: it is not a folder with "
        f"config.json and none of {', '.join(MODELS)}; set plan.model={{layers: 32, "
        "hidden_size: 4096, intermediate_size: 14336, heads: 32, kv_heads: 8, head_size: 128, "
        "vocabulary: 32000}"
    )


def _size_of(path: Path) -> ModelSizeConfig:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    try:
        heads = found["num_attention_heads"]
        return ModelSizeConfig(
            layers=found["num_hidden_layers"],
            hidden_size=found["hidden_size"],
            intermediate_size=found["intermediate_size"],
            heads=heads,
            kv_heads=found.get("num_key_value_heads") or heads,
            head_size=found.get("head_dim") or found["hidden_size"] // heads,
            vocabulary=found["vocab_size"],
            experts=found.get("num_local_experts") or 1,
            active_experts=found.get("num_experts_per_tok") or 1,
            tied_embeddings=found.get("tie_word_embeddings", False),
        )
    except KeyError as error:
        raise ConfigError(
            f"'{path}' does not say {error}, so the model's size is not known; set plan.model"
        ) from None


def parameters(size: ModelSizeConfig, *, active: bool = False) -> int:
    """All parameters of a decoder with gated feed-forward layers, or those that a token goes
    through; norms and routers, a thousandth, are left out."""
    attention = 2 * size.hidden_size * size.head_size * (size.heads + size.kv_heads)
    experts = size.active_experts if active else size.experts
    forward = 3 * size.hidden_size * size.intermediate_size * experts
    embeddings = size.vocabulary * size.hidden_size * (1 if size.tied_embeddings else 2)
    return size.layers * (attention + forward) + embeddings


def quantised_parameters(size: ModelSizeConfig) -> int:
    """Those of linear layers, which a 4-bit base holds in 4 bits."""
    experts = 3 * size.hidden_size * size.intermediate_size * size.layers * size.experts
    embeddings = size.vocabulary * size.hidden_size * (1 if size.tied_embeddings else 2)
    kept = embeddings + (experts if size.experts > 1 else 0)
    return parameters(size) - kept


def planned_targets(model: ModelConfig, lora: LoraConfig) -> Sequence[str]:
    """The layers that are adapted, as far as the configuration of ``model.base`` says; all linear
    ones, the largest adapter, where it does not."""
    if not isinstance(lora.target_modules, str):
        return lora.target_modules
    path = Path(model.base) / "config.json"
    types = [_TYPES.get(model.base, "")]
    if path.is_file():
        types = [json.loads(path.read_text(encoding="utf-8")).get("model_type", "")]
    known = known_targets(types) if lora.target_modules == "auto" else None
    return known if known and not isinstance(known, str) else _LINEAR


def lora_parameters(size: ModelSizeConfig, rank: int, modules: Sequence[str]) -> int:
    """Parameters of an adapter; a module of an unknown name counts as hidden x hidden."""
    hidden, forward = size.hidden_size, size.intermediate_size
    queries, keys = size.heads * size.head_size, size.kv_heads * size.head_size
    widths = {
        "q_proj": hidden + queries, "o_proj": hidden + queries,
        "k_proj": hidden + keys, "v_proj": hidden + keys,
        "gate_proj": hidden + forward, "up_proj": hidden + forward, "down_proj": hidden + forward,
    }  # fmt: skip
    return size.layers * rank * sum(widths.get(name, 2 * hidden) for name in modules)
