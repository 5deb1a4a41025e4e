"""Which layers of a model LoRA is attached to.

Targets are named as peft names them: by a layer's own name, or by the end of its path. By default
they are those that peft knows for the architecture, else all linear layers; the output layer is
never one, since packed passes compute no gradient for it. What a model has, and what peft makes of
it, is seen on skeletons: models that are built from their configuration and hold no weights.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from re import fullmatch
from typing import Any

from sage_core.config.model import EMBEDDED_MODEL, ModelConfig
from sage_core.config.training import LoraConfig
from sage_core.engines.loading import is_here, skeleton, source_of
from sage_core.errors import ConfigError

_EMBEDDED_LAYERS = 30
Build = Callable[[], Any]
"""Makes a new skeleton."""


@dataclass(frozen=True)
class Reach:
    """The targets, and in how many of the model's layers (blocks of the decoder) they are."""

    targets: tuple[str, ...]
    reached: int
    layers: int

    def __str__(self) -> str:
        ends = ", ".join(sorted({_end(target) for target in self.targets}))
        return f"LoRA on {ends} in {self.reached} of {self.layers} layers"


def planned_reach(model: ModelConfig, lora: LoraConfig) -> Reach | None:
    """What LoRA will reach in ``model.base``; None: its configuration is not on this machine.

    Raises:
        ConfigError: a target that is set is not in the model.
        EngineError: it is no causal model that transformers knows.
    """
    if model.base == EMBEDDED_MODEL:
        return reach_of(_embedded, lora)
    if not is_here(model.base, "config.json"):
        return None
    return reach_of(partial(skeleton, model.base), lora)


def reach_in(base: Path, lora: LoraConfig) -> Reach:
    """What LoRA reaches in the model of a base folder; see :func:`reach_of`."""
    return reach_of(partial(skeleton, source_of(base)), lora)


def reach_of(build: Build, lora: LoraConfig) -> Reach:
    """What LoRA reaches in a model.

    Raises:
        ConfigError: a target that is set is not one of its linear layers, or peft refuses it.
    """
    causal, wanted = build(), lora.target_modules
    if isinstance(wanted, str):
        targets = _default(build, lora, everything=wanted == "all-linear")
    else:
        _check(causal, wanted)
        targets = wanted
    blocks, layers = _blocks(causal)
    places = (name.removeprefix(blocks) for name in attached(causal, peft_config(lora, targets)))
    reached = {place.split(".")[0] for place in places} & set(map(str, range(layers)))
    return Reach(targets, len(reached), layers)


def peft_config(lora: LoraConfig, targets: Sequence[str]) -> Any:
    """A new adapter as peft is told it."""
    from peft import LoraConfig as PeftLoraConfig

    return PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(targets),
        task_type="CAUSAL_LM",
    )


def attached(causal: Any, config: Any) -> dict[str, Any]:
    """The layers that peft attaches an adapter to, by path; ``causal`` has it afterwards.

    Raises:
        ConfigError: peft refuses a target.
    """
    from peft import get_peft_model
    from peft.tuners.lora import LoraLayer

    try:
        get_peft_model(causal, config)
    except ValueError as error:
        raise ConfigError(
            f"peft attaches no adapter to {type(causal).__name__} ({str(error).splitlines()[0]}); "
            "change lora.target_modules"
        ) from error
    return {name: each for name, each in causal.named_modules() if isinstance(each, LoraLayer)}


def known_targets(model_types: Iterable[str]) -> str | Sequence[str] | None:
    """peft's targets for the first of these architectures that it knows: names, or a pattern."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    found: Iterable[str | list[str]] = (KNOWN[each] for each in model_types if each in KNOWN)
    return next(iter(found), None)


def _default(build: Build, lora: LoraConfig, *, everything: bool) -> tuple[str, ...]:
    causal = build()
    decoder = _decoder(causal)
    reachable = {
        name
        for name in _linear_layers(causal)
        if name.startswith(decoder) and not _passed_by(causal, name)
    }
    types = (causal.config.model_type, causal.config.get_text_config().model_type)
    known = None if everything else known_targets(types)
    meant = {name for name in reachable if known and _matches(name, known)} or reachable
    targets = _names(causal, meant)
    # Of some mixtures of experts, peft takes names of linear layers for the experts' weights, whose
    # adapters no server loads: these names are left out.
    found = attached(causal, peft_config(lora, targets))
    linear = {name for name, layer in found.items() if not _is_parameter(layer)}
    lost = {_end(name) for name in meant - linear}
    return _names(build(), {name for name in meant if _end(name) not in lost})


def _names(causal: Any, meant: set[str]) -> tuple[str, ...]:
    """The own names of layers where no other module has one of them, else their paths."""
    ends = {_end(name) for name in meant}
    named = {name for name, _ in causal.named_modules() if _end(name) in ends}
    return tuple(sorted(ends if named == meant else meant))


def _check(causal: Any, wanted: Sequence[str]) -> None:
    layers = _linear_layers(causal)
    missing = [each for each in wanted if not any(_matches(name, [each]) for name in layers)]
    if missing or not wanted:
        ends = ", ".join(sorted(set(map(_end, layers))))
        none = f"{', '.join(missing)} not among" if missing else "none of"
        raise ConfigError(
            f"lora.target_modules = [{', '.join(wanted)}]: {none} the linear layers of "
            f"{type(causal).__name__} below its output, which are {ends}; set some of these, "
            "'auto' or 'all-linear'"
        )


def _linear_layers(causal: Any) -> dict[str, Any]:
    """Those below the output layer, by path."""
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    output = causal.get_output_embeddings()
    return {
        name: module
        for name, module in causal.named_modules()
        if isinstance(module, Linear | Conv1D) and module is not output and _gives_product(module)
    }


def _gives_product(layer: Any) -> bool:
    """Whether a linear layer gives a tensor. A router may be one that gives a choice, which an
    adapter cannot add to."""
    import torch

    if type(layer).forward is torch.nn.Linear.forward or not hasattr(layer, "in_features"):
        return True
    weight = layer.weight
    return isinstance(layer(weight.new_empty(1, layer.in_features)), torch.Tensor)


def _passed_by(causal: Any, name: str) -> bool:
    """Whether an adapter would be passed by: state-space layers, and their kernels, take the
    weights of these layers and never call them."""
    parent = causal.get_submodule(name.rpartition(".")[0])
    return _end(name) in ("dt_proj", "out_proj", "x_proj") and hasattr(parent, "conv1d")


def _is_parameter(layer: Any) -> bool:
    from peft.tuners.lora.layer import ParamWrapper

    return isinstance(layer, ParamWrapper)


def _matches(name: str, targets: str | Sequence[str]) -> bool:
    """As peft reads its ``target_modules``: names, or a pattern."""
    if isinstance(targets, str):
        return fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _end(name: str) -> str:
    return name.rpartition(".")[2]


def _blocks(causal: Any) -> tuple[str, int]:
    """Where the decoder's layers are, with a last dot, and how many: the longest of its least
    nested lists."""
    lists = {name: length for name, length in _lists(causal) if name.startswith(_decoder(causal))}
    blocks = min(lists, key=lambda name: (name.count("."), -lists[name]))
    return f"{blocks}.", lists[blocks]


def _decoder(causal: Any) -> str:
    """The path of the text decoder, with a last dot; '' is all of the model. Beside it, a model may
    have encoders of images."""
    decoder = causal.get_decoder()
    paths = (name for name, module in causal.named_modules() if module is decoder and name)
    path = f"{next(paths, '')}."
    holds_layers = any(name.startswith(path) for name, _ in _lists(causal))
    return path if holds_layers else ""


def _lists(causal: Any) -> list[tuple[str, int]]:
    from torch.nn import ModuleList

    modules = causal.named_modules()
    return [(name, len(each)) for name, each in modules if isinstance(each, ModuleList)]


def _embedded() -> Any:
    """The embedded model, as far as its layers go: it is not unpacked yet."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(LlamaConfig(num_hidden_layers=_EMBEDDED_LAYERS))
