"""Adapters and what they are trained on top of.

Whatever ``lora.chain`` says, a checkpoint is one adapter over m0, so that any engine loads it with
m0's weights alone. Adapters that were trained one on top of the other are joined exactly: A1 over
A2 and B1 beside B2 give B1 A1 + B2 A2. ``lineage.json`` names the models that a checkpoint comes
from. Files hold no path and no set order, so that equal training gives equal bytes.
"""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_core.config.training import LoraConfig
from sage_core.engines.loading import load_model, skeleton, source_of
from sage_core.errors import ConfigError
from sage_core.storage import content_hash, digest, read_json, write_json
from sage_core.training.job import Job
from sage_core.training.lora_targets import Reach, attached, peft_config, reach_in
from sage_core.training.processes import model_here

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

LINEAGE = "lineage.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER = "adapter_model.safetensors"
TRAINED, EARLIER, REFERENCE = "default", "earlier", "ref"  # the last one is named by TRL
_SCALES_OTHERWISE = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern")


def start(job: Job) -> Any:
    """The base with the adapter to train, named ``default``, as ``job.lora.chain`` says."""
    from peft import PeftConfig, PeftModel, get_peft_model
    from transformers import set_seed

    config = peft_config(job.lora, reach_in(job.base, job.lora).targets)
    set_seed(job.seed)
    base: Any = load_model(job.base, model_here(job))
    if job.model.quantization != "none":
        from peft import prepare_model_for_kbit_training

        base = prepare_model_for_kbit_training(
            base, use_gradient_checkpointing=job.training.gradient_checkpointing
        )
    if job.parent is None:
        return get_peft_model(base, config)
    if job.lora.chain == "continue":
        return PeftModel.from_pretrained(base, job.parent, is_trainable=True)
    if job.lora.chain == "merged":
        merged = PeftModel.from_pretrained(base, job.parent).merge_and_unload()
        return get_peft_model(merged, config)
    frozen: Any = PeftConfig.from_pretrained(job.parent)
    frozen.lora_dropout = 0.0  # nothing of it is trained, and the new one goes on from all of it
    model = PeftModel.from_pretrained(base, job.parent, adapter_name=EARLIER, config=frozen)
    model.add_adapter(TRAINED, config)
    activate(model)
    return model


def check(job: Job) -> Reach:
    """What LoRA will reach; loads no weights.

    Raises:
        ConfigError: a target is not in the model, or the parent's adapter has other settings.
    """
    reach = reach_in(job.base, job.lora)
    if job.parent is not None:
        _check_parent(job, job.parent, reach.targets)
    return reach


def save(folder: Path, trained: Path, job: Job) -> None:
    """Write the checkpoint ``folder`` from the adapter that was trained."""
    from safetensors.torch import load_file, save_file

    config = read_json(trained / ADAPTER_CONFIG)
    tensors = load_file(trained / ADAPTER)
    if job.parent is not None and job.lora.chain != "continue":
        before = read_json(job.parent / ADAPTER_CONFIG)
        tensors = _joined(
            [(load_file(job.parent / ADAPTER), _scale(before)), (tensors, _scale(config))]
        )
        config["r"] = config["lora_alpha"] = before["r"] + config["r"]
    config["base_model_name_or_path"] = job.model.base
    config["inference_mode"] = True
    config["target_modules"] = sorted(config["target_modules"])
    write_json(folder / ADAPTER_CONFIG, config)
    save_file(tensors, folder / ADAPTER, metadata={"format": "pt"})


def write_lineage(
    folder: Path,
    job: Job,
    stage: str,
    examples: Sequence[Any],
) -> None:
    """Name the models that this one comes from, m0 first, the method (``stage``) that made each and
    what it was trained on.

    ``sha256`` is the hash of the model's artefact; the checkpoint's own is not known to itself.
    """
    ancestors = [{"name": "m0", "stage": "base-model", "sha256": content_hash(job.base)}]
    if job.parent is not None:
        ancestors = _known(job.parent, ancestors)
    own = {
        "name": job.name,
        "stage": stage,
        "data_sha256": digest([asdict(example) for example in examples]),
        "method": job.lora.chain if job.parent else "new",
    }
    write_json(folder / LINEAGE, {"models": [*ancestors, own]})


@contextmanager
def as_reference(model: Any) -> "Iterator[None]":
    """The model as it was before training, for a while."""
    earlier = [name for name in (EARLIER, REFERENCE) if name in model.peft_config]
    if not earlier:
        with model.disable_adapter():
            yield
        return
    model.base_model.set_adapter(earlier, inference_mode=True)
    try:
        yield
    finally:
        activate(model)


def activate(model: Any) -> None:
    """Use what was trained before together with the adapter to train, which alone has gradients."""
    names = [name for name in (EARLIER, TRAINED) if name in model.peft_config]
    model.base_model.set_adapter(names, inference_mode=True)
    model.set_requires_grad(TRAINED)


def _check_parent(job: Job, parent: Path, targets: Sequence[str]) -> None:
    """Check that the adapter of ``parent`` can be trained on, or joined with a new one."""
    from peft import PeftConfig

    lora, before = job.lora, read_json(parent / ADAPTER_CONFIG)
    here, there = (
        set(attached(skeleton(source_of(job.base)), config))
        for config in (peft_config(lora, targets), PeftConfig.from_pretrained(parent))
    )
    other: dict[str, tuple[object, object]] = {}
    if here != there:
        other["target_modules"] = _shown(before["target_modules"]), _shown(targets)
    if lora.chain == "continue":
        found = {
            "rank": (before["r"], lora.rank),
            "alpha": (before["lora_alpha"], lora.alpha),
            "dropout": (before["lora_dropout"], lora.dropout),
        }
        other |= {name: both for name, both in found.items() if both[0] != both[1]}
    _refuse_differing(parent, lora, other)
    odd = [name for name in _SCALES_OTHERWISE if before.get(name)]
    if lora.chain != "continue" and odd:
        raise ConfigError(
            f"lora.chain = '{lora.chain}' cannot join the adapter '{parent}', which has "
            f"{', '.join(odd)}; set lora.chain=continue"
        )


def _refuse_differing(
    parent: Path, lora: LoraConfig, settings: Mapping[str, tuple[object, object]]
) -> None:
    if not settings:
        return
    differ = "; ".join(
        f"lora.{name} is {theirs} there and {ours} in the configuration"
        for name, (theirs, ours) in settings.items()
    )
    same = " ".join(f"lora.{name}={theirs}" for name, (theirs, _) in settings.items())
    other = ", or start from another model"
    if lora.chain == "continue" and "target_modules" not in settings:
        other = ", or lora.chain=stacked to train a new adapter on top of it"
    raise ConfigError(
        f"lora.chain = '{lora.chain}' needs the settings of the adapter '{parent}': {differ}; set "
        f"{same}{other}"
    )


def _shown(targets: str | Sequence[str]) -> str:
    """As a setting is written."""
    return targets if isinstance(targets, str) else f"[{','.join(sorted(targets))}]"


def _scale(config: dict[str, Any]) -> float:
    return float(config["lora_alpha"]) / float(config["r"])


def _joined(
    adapters: "Sequence[tuple[dict[str, torch.Tensor], float]]",
) -> "dict[str, torch.Tensor]":
    """Adapters, each with its scale, as one whose scale is 1."""
    import torch

    joined = {}
    for name in adapters[0][0]:
        if ".lora_A." in name:
            parts = [tensors[name] * scale for tensors, scale in adapters]
            joined[name] = torch.cat(parts, dim=0).contiguous()
        else:
            joined[name] = torch.cat([tensors[name] for tensors, _ in adapters], dim=1).contiguous()
    return joined


def _known(parent: Path, otherwise: list[dict[str, str]]) -> list[dict[str, str]]:
    """The models up to ``parent``, that one's hash included; a folder without a lineage is named by
    its own."""
    path = parent / LINEAGE
    models: list[dict[str, str]] = (
        read_json(path)["models"]
        if path.is_file()
        else [*otherwise, {"name": parent.name, "stage": "unknown"}]
    )
    return [*models[:-1], {**models[-1], "sha256": content_hash(parent)}]
