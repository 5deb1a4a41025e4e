"""Adapters and what they are trained on top of.

Whatever ``lora.chain`` says, a checkpoint is one adapter over m0, so that any engine loads it with
m0's weights alone. Adapters that were trained one on top of the other are joined exactly: A1 over
A2 and B1 beside B2 give B1 A1 + B2 A2. ``lineage.json`` names the models that a checkpoint comes
from. Files hold no path and no set order, so that equal training gives equal bytes.
"""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_core.engines.loading import load_model
from sage_core.errors import ConfigError
from sage_core.storage import content_hash, digest, read_json, write_json
from sage_core.training.job import Job
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
    """The base with the adapter to train, named ``default``, as ``job.lora.chain`` says.

    Raises:
        ConfigError: the parent's adapter cannot be built upon.
    """
    from peft import PeftConfig, PeftModel, get_peft_model
    from transformers import set_seed

    set_seed(job.seed)
    base: Any = load_model(job.base, model_here(job))
    if job.model.quantization != "none":
        from peft import prepare_model_for_kbit_training

        base = prepare_model_for_kbit_training(
            base, use_gradient_checkpointing=job.training.gradient_checkpointing
        )
    if job.parent is None:
        return get_peft_model(base, _lora(job))
    if job.lora.chain == "continue":
        return PeftModel.from_pretrained(base, job.parent, is_trainable=True)
    _check_joins(job)
    if job.lora.chain == "merged":
        merged = PeftModel.from_pretrained(base, job.parent).merge_and_unload()
        return get_peft_model(merged, _lora(job))
    frozen: Any = PeftConfig.from_pretrained(job.parent)
    frozen.lora_dropout = 0.0  # nothing of it is trained, and the new one goes on from all of it
    model = PeftModel.from_pretrained(base, job.parent, adapter_name=EARLIER, config=frozen)
    model.add_adapter(TRAINED, _lora(job))
    activate(model)
    return model


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


def _lora(job: Job) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=job.lora.rank,
        lora_alpha=job.lora.alpha,
        lora_dropout=job.lora.dropout,
        target_modules=list(job.lora.target_modules),
        task_type="CAUSAL_LM",
    )


def _check_joins(job: Job) -> None:
    assert job.parent is not None
    before = read_json(job.parent / ADAPTER_CONFIG)
    odd = [name for name in _SCALES_OTHERWISE if before.get(name)]
    if odd or sorted(before["target_modules"]) != sorted(job.lora.target_modules):
        raise ConfigError(
            f"lora.chain = '{job.lora.chain}' needs adapters of one kind, but '{job.parent}' has "
            f"target_modules {sorted(before['target_modules'])} and sets {odd or 'nothing else'}; "
            "set lora.target_modules to these, or lora.chain=continue"
        )


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
