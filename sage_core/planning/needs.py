"""What a machine must have for all stages of a run: GPUs, memory and disk, from the plan."""

from collections.abc import Sequence
from dataclasses import dataclass

from sage_core.config.pipeline import PipelineConfig
from sage_core.planning.costs import StagePlan
from sage_core.planning.stages import plan, planned_dialogues

# Libraries (0.6 GB, measured), a Prefect server, and what allocators keep: the demo, whose largest
# stage plans 2.95 GB, peaked at 5.4 GB.
_PROCESSES_GB = 2.5
_HOME_GB = 1.0  # databases, logs, the report, and what a training keeps until it has ended
# Two CPU cores do 370 GFLOP/s in bfloat16 (measured), a thousandth of an H100 in training: what
# takes it 0.1 hours takes them four days.
_CPU_GPU_HOURS = 0.1
_ASSUMED_DIALOGUES = 1000  # where it is not known; only text on the disk grows with it
_SHARED_WEIGHTS = ("fsdp", "zero3")


@dataclass(frozen=True)
class Needs:
    """The largest need of any stage. A GB is 10^9 bytes.

    Attributes:
        gpus: the fewest of the planned kind; 0 = a CPU does, None = no number is enough.
        gpu_memory_gb: used on each of them.
        memory_gb: of the machine.
        disk_gb: left behind under the home, without the base's weights.
        weights_gb: on the disk, the base's weights.
        too_few: what the settings spread over fewer GPUs than hold it, each with its fix.
    """

    gpus: int | None
    gpu_memory_gb: float
    memory_gb: float
    disk_gb: float
    weights_gb: float
    too_few: tuple[tuple[str, str], ...] = ()


def needs(config: PipelineConfig, *, gpus: int = 0) -> Needs:
    """What a run of ``config`` needs on a machine with so many ``gpus``.

    Raises:
        ConfigError: the model's size is not known.
        DataError: the situations cannot be read, and ``plan`` does not say how many there are.
    """
    if not planned_dialogues(config):
        assumed = config.plan.model_copy(update={"dialogues": _ASSUMED_DIALOGUES})
        config = config.model_copy(update={"plan": assumed})
    stages = plan(config)
    base = next(stage for stage in stages if stage.stage == "base-model")
    disk = _HOME_GB + sum(stage.disk_gb for stage in stages if stage is not base)
    asks = [stage for stage in stages if stage.gpus != 0]
    slow = sum(stage.gpu_hours for stage in stages) > _CPU_GPU_HOURS
    wide = any(stage.gpus != 1 for stage in asks)
    if config.model.device == "cpu" or not (gpus or slow or wide):
        memory = max((_without_gpu(stage, config) for stage in asks), default=0.0)
        memory = _PROCESSES_GB + max(memory, base.host_gb)
        return Needs(0, 0.0, memory, disk, base.disk_gb)
    counts = [stage.gpus for stage in asks if stage.gpus is not None]
    return Needs(
        max(counts, default=1) if len(counts) == len(asks) else None,
        max((stage.memory_gb for stage in asks), default=0.0),
        _PROCESSES_GB + max(stage.host_gb for stage in stages),
        disk,
        base.disk_gb,
        tuple(_too_few(asks, config)),
    )


def _without_gpu(stage: StagePlan, config: PipelineConfig) -> float:
    """GB of the machine's memory that a stage takes where there is no GPU."""
    return _processes(config, stage) * (stage.gpus or 1) * stage.memory_gb


def _processes(config: PipelineConfig, stage: StagePlan) -> int:
    launcher = config.training.launcher
    return launcher.processes if launcher and stage.trained else 1


def _too_few(stages: Sequence[StagePlan], config: PipelineConfig) -> list[tuple[str, str]]:
    """The kinds of work whose settings use fewer GPUs than hold it: what, and the fix."""
    found: dict[str, str] = {}
    launcher = config.training.launcher
    for stage in stages:
        if stage.gpus is None:
            name = f"{stage.stage} {stage.label}".strip()
            found[f"{name} fits on no number of {config.plan.gpu.name}"] = (
                "lower its micro_batch_size or max_length, or model.batch_size"
            )
        elif stage.trained:
            shared = launcher is not None and launcher.strategy in _SHARED_WEIGHTS
            spread = launcher.processes if launcher and shared else 1
            if spread < stage.gpus and not (launcher and launcher.accelerate_config):
                found[f"training on {spread} GPU(s) of the {stage.gpus} that hold it"] = (
                    f"--set 'training.launcher={{processes: {stage.gpus}, strategy: fsdp}}'"
                )
        else:
            for use in stage.uses:
                engine = use.engine
                if engine.traits.runs_here and engine.gpus < stage.gpus:
                    found[f"{engine.where}, on {engine.gpus} GPU(s) of the {stage.gpus} that hold "
                          "it"] = (
                        "give every role an engine {kind: vllm, vllm_arguments: "
                        f"[--tensor-parallel-size={stage.gpus}]}}, as paper.yaml does"
                    )  # fmt: skip
    return list(found.items())
