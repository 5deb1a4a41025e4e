"""From tokens to GPU-hours, memory, disk and prices.

Hours:

- training: 4 FLOP per token and active parameter (2 forward, 2 backward through the activations;
  Kaplan et al. 2020 have 6, but the weights of the base take no gradient under LoRA), and 2 more
  for the reference of DPO;
- reading: 2 FLOP per token and active parameter;
- writing: bound by memory; each step reads all weights once for the whole batch, and each
  sequence's keys and values.

Memory of training: the base, 16 bytes per parameter of the adapter (value, gradient, Adam's two
moments, in float32), activations of 34 bytes per token, layer and hidden unit (Korthikanti et al.
2022, without their term of attention scores, which fused attention does not keep; the 19 of the
feed-forward part scaled to its width and active experts), and float32 logits with their gradient.
With gradient checkpointing only 2 bytes per token, layer and hidden unit are kept, and the whole
of one layer. In 4 bits a weight takes 4.127 (NF4 with constants quantised again; Dettmers et al.
2023), but embeddings, and experts, which transformers does not hold in linear layers, stay as they
are.

Host memory is what loading takes: a model of this process is read into it and then moved to the
GPU, in each process of a launched training; vLLM maps the files. The embedded model is dequantised
in float32.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sage_core.config.engine import EngineConfig
from sage_core.config.model import EMBEDDED_MODEL
from sage_core.config.pipeline import PipelineConfig
from sage_core.planning.sizes import (
    lora_parameters,
    model_size,
    parameters,
    planned_targets,
    quantised_parameters,
)

_BYTES = {"bfloat16": 2, "float32": 4}
_GB = 1e9
_TEXT_BYTES_PER_TOKEN = 4.2  # of English under SmolLM2's tokenizer
_FLOP_TRAINED, _FLOP_READ = 4, 2
_ADAM_BYTES = 16
_MOST_GPUS_LOG2 = 10
_ACTIVATION_BYTES, _OF_FEED_FORWARD = 34, 19  # the latter at a width of 4 hidden sizes
_CHECKPOINT_BYTES = 2  # a layer's input
_NF4_BYTES = 4.127 / 8


@dataclass(frozen=True)
class Use:
    """What one role asks of its engine in a stage: prompts, and tokens read and written."""

    role: str
    engine: EngineConfig
    requests: float
    read: float
    written: float
    longest_prompt: int = 0
    candidates: int = 1
    max_new_tokens: int = 0


@dataclass(frozen=True)
class StagePlan:
    """The estimate of one stage.

    Attributes:
        stage, label: as in the manifests; the label is the model's name, or empty.
        uses: what its engines are asked.
        trained: tokens that go through training, all epochs counted.
        gpu_hours: of one GPU of the planned kind; 0 for servers elsewhere.
        gpus: the fewest that hold it, in powers of two; ``memory_gb`` is of each of them. None
            where none are enough, and ``memory_gb`` is what each needs besides the weights.
        host_gb: memory of the machine that loading the base takes, beside GPUs.
        disk_gb: what the stage leaves behind.
        api_usd: price at servers elsewhere; None where a price is not set.
        formulas: how each of these comes about, with the numbers put in.
    """

    stage: str
    label: str
    uses: tuple[Use, ...] = ()
    trained: float = 0.0
    gpu_hours: float = 0.0
    gpus: int | None = 0
    memory_gb: float = 0.0
    host_gb: float = 0.0
    disk_gb: float = 0.0
    api_usd: float | None = 0.0
    formulas: dict[str, str] = field(default_factory=dict)

    @property
    def read(self) -> float:
        return sum(use.read for use in self.uses)

    @property
    def written(self) -> float:
        return sum(use.written for use in self.uses)


class Costs:
    """What the stages of a run cost, given their tokens."""

    def __init__(self, config: PipelineConfig) -> None:
        self.config, self.settings = config, config.plan
        self.size = model_size(config.model, config.plan)

    def base(self) -> StagePlan:
        total = parameters(self.size)
        active = parameters(self.size, active=True)
        through = "" if active == total else f" ({active / 1e9:.3g} billion active)"
        formula = f"{total / 1e9:.3g} billion parameters{through} x {self._bytes} bytes"
        disk = total * self._bytes / _GB
        formulas, host = {"disk": formula}, 0.0
        if self.config.model.base == EMBEDDED_MODEL:
            host = total * _BYTES["float32"] / _GB
            formulas["host memory"] = f"{total:,} parameters x {_BYTES['float32']} bytes"
        return StagePlan("base-model", "m0", host_gb=host, disk_gb=disk, formulas=formulas)

    def training(
        self, stage: str, label: str, number: float, what: str, tokens: float, epochs: float,
        settings: Any,
    ) -> StagePlan:  # fmt: skip
        """A training on ``number`` sequences of ``tokens``."""
        size, gpu = self.size, self.settings.gpu
        length = min(tokens, settings.max_length)
        trained = number * length * epochs
        active = parameters(size, active=True)
        referred = number * length if stage == "dpo" else 0.0
        flop = (_FLOP_TRAINED * trained + _FLOP_READ * referred) * active
        hours = flop / (gpu.tflops * 1e12 * self.settings.training_utilisation) / 3600
        targets = planned_targets(self.config.model, self.config.lora)
        adapter = lora_parameters(size, self.config.lora.rank, targets)
        sequences = settings.micro_batch_size * (2 if stage == "dpo" else 1)
        positions = sequences * settings.max_length
        forward = size.active_experts * size.intermediate_size / (4 * size.hidden_size)
        per_unit = _ACTIVATION_BYTES + _OF_FEED_FORWARD * (forward - 1)
        units = positions * size.hidden_size
        activations = units * size.layers * per_unit / _GB
        kept = f"{size.layers} layers x {per_unit:.0f} bytes"
        if self.config.training.gradient_checkpointing:
            activations = units * (size.layers * _CHECKPOINT_BYTES + per_unit) / _GB
            kept = f"({size.layers} layers x {_CHECKPOINT_BYTES} + {per_unit:.0f} bytes)"
        logits = 2 * positions * size.vocabulary * 4 / _GB
        weights = self._weights_gb()
        alone = adapter * _ADAM_BYTES / _GB + activations + logits
        gpus, memory = self._spread(weights, alone)
        launcher = self.config.training.launcher
        processes = launcher.processes if launcher else 1
        reference = f" + {_FLOP_READ} x {referred:,.0f} for the reference" if referred else ""
        return StagePlan(
            stage, label, trained=trained, gpu_hours=hours, gpus=gpus, memory_gb=memory,
            host_gb=processes * weights, disk_gb=4 * adapter / _GB,
            formulas={
                "tokens": f"{number:,.0f} {what} x {length:.0f} x {epochs:g} epochs",
                "GPU-hours": f"({_FLOP_TRAINED} x {trained:,.0f} tokens{reference}) x {active:.3g} "
                f"active parameters / ({gpu.tflops:g} TFLOP/s x "
                f"{self.settings.training_utilisation:g} x 3600 s)",
                "memory": f"{weights:.2f} GB of weights / {gpus or 'any number'} + {adapter:,} of "
                f"LoRA x {_ADAM_BYTES} bytes + {positions:,} positions x {size.hidden_size} x "
                f"{kept} + logits {positions:,} x {size.vocabulary:,} x 8 bytes",
                "host memory": f"{processes} processes x {weights:.2f} GB of weights",
                "disk": f"{adapter:,} parameters of LoRA x 4 bytes",
            },
        )  # fmt: skip

    def generation(
        self, stage: str, label: str, uses: Sequence[Use], what: str, together: int, kept: int = 1
    ) -> StagePlan:
        """A stage that asks engines. ``together``: prompts that could run at once; ``kept``: how
        often what is written is left behind."""
        uses = [use for use in uses if use.requests]
        hours, peak, memory, host = 0.0, 0.0, 0.0, 0.0
        gpus: int | None = 0
        formulas: dict[str, str] = {"tokens": what}
        price: float | None = 0.0
        for use in uses:
            formulas[f"tokens, {use.role}"] = _tokens(use)
            if not use.engine.traits.runs_here:
                cost, formulas[f"API, {use.role}"] = _price(use)
                price = None if price is None or cost is None else price + cost
                continue
            batch = self._batch(use, together)
            taken, formulas[f"GPU-hours, {use.role}"] = self._hours(use, batch)
            hours += taken
            if use.engine.traits.in_process:
                host = self._weights_gb()
                formulas["host memory"] = f"{host:.2f} GB of weights"
            held, formula = self._held(use, batch)
            if held > peak:
                peak = held
                gpus, memory = self._spread(held, 0.0)
                formulas["memory"] = f"({formula}) / {gpus or 'any number'}"
        written = sum(use.written for use in uses)
        times = f" x {kept}" if kept > 1 else ""
        formulas["disk"] = f"{written:,.0f} tokens x {_TEXT_BYTES_PER_TOKEN} bytes{times}"
        disk = kept * written * _TEXT_BYTES_PER_TOKEN / _GB
        return StagePlan(stage, label, tuple(uses), gpu_hours=hours, gpus=gpus, memory_gb=memory,
                         host_gb=host, disk_gb=disk, api_usd=price, formulas=formulas)  # fmt: skip

    def _batch(self, use: Use, together: int) -> int:
        """Sequences that are written at once."""
        limit = self.config.model.batch_size
        if use.engine.requests_at_once is not None:
            limit = min(limit, use.engine.requests_at_once * use.candidates)
        return max(1, min(limit, together * use.candidates))

    def _hours(self, use: Use, batch: int) -> tuple[float, str]:
        """GPU-hours of reading and writing, and how they come about."""
        gpu, settings = self.settings.gpu, self.settings
        active, weights = parameters(self.size, active=True), self._weights_gb()
        reading = _FLOP_READ * active * use.read / (
            gpu.tflops * 1e12 * settings.reading_utilisation
        )  # fmt: skip
        formula = (
            f"{_FLOP_READ} x {use.read:,.0f} x {active:.3g} / ({gpu.tflops:g} TFLOP/s x "
            f"{settings.reading_utilisation:g} x 3600 s)"
        )
        if not use.written:
            return reading / 3600, formula
        length = (use.read + use.written / use.candidates / 2) / use.requests
        step = weights * _GB + batch * length * self._kv_bytes
        writing = use.written / batch * step / (
            gpu.bandwidth_gb_s * 1e9 * settings.writing_utilisation
        )  # fmt: skip
        return (reading + writing) / 3600, (
            f"{formula} + {use.written:,.0f} / {batch} sequences x ({weights:.2f} GB + {batch} x "
            f"{length:.0f} x {self._kv_bytes:,} bytes) / ({gpu.bandwidth_gb_s:g} GB/s x "
            f"{settings.writing_utilisation:g} x 3600 s)"
        )

    def _held(self, use: Use, batch: int) -> tuple[float, str]:
        """GB of the weights with the keys and values of a batch at its longest, and how they come
        about."""
        weights = self._weights_gb()
        prompts = max(1, batch // use.candidates)
        longest = use.max_new_tokens or math.ceil(use.written / use.requests)
        cached = (prompts * use.longest_prompt + batch * longest) * self._kv_bytes / _GB
        return weights + cached, (
            f"{weights:.2f} GB of weights + ({prompts} prompts x {use.longest_prompt:,} + "
            f"{batch} sequences x {longest}) x {self._kv_bytes:,} bytes"
        )

    def _spread(self, shared: float, each: float) -> tuple[int | None, float]:
        """The fewest GPUs, in powers of two, over which ``shared`` GB are split with room for
        ``each`` on all of them, and the memory that is used of each; see :class:`StagePlan`."""
        for gpus in (2**exponent for exponent in range(_MOST_GPUS_LOG2 + 1)):
            if shared / gpus + each <= self.settings.gpu.memory_gb:
                return gpus, shared / gpus + each
        return None, each

    @property
    def _kv_bytes(self) -> int:
        """Of the keys and values of a token."""
        size = self.size
        return 2 * size.layers * size.kv_heads * size.head_size * self._bytes

    @property
    def _bytes(self) -> int:
        return _BYTES[self.config.model.dtype.replace("auto", "bfloat16")]

    def _weights_gb(self) -> float:
        total, small = parameters(self.size), 0
        if self.config.model.quantization == "4bit":
            small = quantised_parameters(self.size)
        return ((total - small) * self._bytes + small * _NF4_BYTES) / _GB


def _tokens(use: Use) -> str:
    mean = use.read / use.requests
    read = f"{use.requests:,.0f} prompts x {mean:.0f} = {use.read:,.0f} read"
    if not use.written:
        return read
    return f"{read}, {use.written:,.0f} written ({use.written / use.requests:.0f} each)"


def _price(use: Use) -> tuple[float | None, str]:
    """At a server elsewhere, and how it comes about; None where it is not set."""
    rates = use.engine.prices
    if rates is None:
        return None, (
            "set the engine's usd_per_million_prompt_tokens and usd_per_million_completion_tokens"
        )
    formula = f"{use.read / 1e6:.3g} M x ${rates[0]:g} + {use.written / 1e6:.3g} M x ${rates[1]:g}"
    return (use.read * rates[0] + use.written * rates[1]) / 1e6, formula
