"""Where training runs: in this process, or in those of `accelerate launch` (DDP, FSDP, DeepSpeed
ZeRO) as a sub-process.

For the latter, what is to be done is written into the work folder, and each process that
`accelerate` starts runs :mod:`sage_core.training.worker` on it.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from sage_core import errors
from sage_core.config.training import LauncherConfig
from sage_core.engines import memory
from sage_core.engines.loading import dtype_of
from sage_core.errors import ConfigError, EngineError
from sage_core.execution import note
from sage_core.training import adapters, worker
from sage_core.training.job import Job, Progress, no_progress, read_log
from sage_core.training.method import Example, Given, Method
from sage_core.training.processes import free_port, running

_LOG = "launch.log"
_TAIL_LINES = 25


def train(
    method: Method[Example, Given],
    folder: Path,
    job: Job,
    examples: Sequence[Example],
    settings: Given,
    work: Path | None = None,
    on_step: Progress = no_progress,
) -> None:
    """Train by a method; fills ``folder`` with the adapter, its lineage and the training log.

    Args:
        folder: an empty one.
        work: where checkpoints are kept until training has ended; one that was killed goes on from
            there, to the same result. None = a temporary folder.
        on_step: called with (step, steps) after every optimiser step.

    Raises:
        ConfigError: LoRA's targets are not in the model, or an adapter that is to be continued has
            other settings.
        DataError: nothing to train on, or the loss is not finite.
        EngineError: launched processes ended otherwise than by an error of ours, with the end of
            their log.
    """
    note("lora", str(adapters.check(job)))
    memory.release()  # training has the machine to itself
    if job.training.launcher is None:
        worker.train_here(method, folder, job, examples, settings, work, on_step)
        return
    with _kept(work) as kept:
        _run(worker.Task(method, folder, job, examples, settings, kept), on_step)


def _run(task: worker.Task, on_step: Progress) -> None:
    """Run a task in the processes that its launcher asks for."""
    assert task.job.training.launcher is not None
    command = _command(task.job.training.launcher, dtype_of(task.job.model), task.write())
    with (task.work / _LOG).open("wb") as log, running(command) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(worker.STEP.encode()):
                step, steps = line.split()[1:]
                on_step(int(step), int(steps))
            else:
                log.write(line)
        status = process.wait()
    for error in worker.errors_in(task.work):
        raise getattr(errors, error["type"])(error["message"])
    if status:
        text = (task.work / _LOG).read_text(encoding="utf-8", errors="replace")
        tail = "\n".join(text.splitlines()[-_TAIL_LINES:])
        raise EngineError(
            f"`accelerate launch` ended with status {status}; its log in '{task.work / _LOG}' ends "
            f"with:\n{tail}\nFix that, or set training.launcher=null"
        )
    note("training", read_log(task.folder)["passes"])


def check_launcher(launcher: LauncherConfig | None) -> None:
    """Check that training can be launched.

    Raises:
        ConfigError: DeepSpeed, GPUs or the file of `accelerate config` are missing.
    """
    if launcher is None:
        return
    path = launcher.accelerate_config
    if path is not None and not path.is_file():
        raise ConfigError(
            f"training.launcher.accelerate_config = '{path}' does not exist; write one with "
            "`accelerate config --config_file FILE`, or set processes and strategy instead"
        )
    if launcher.strategy in ("zero2", "zero3") and find_spec("deepspeed") is None:
        raise ConfigError(
            f"training.launcher.strategy = '{launcher.strategy}' needs the package deepspeed; "
            "install it, or use 'fsdp' or 'ddp'"
        )
    if path is None and launcher.strategy != "ddp":  # which also runs on CPUs
        import torch

        if (there := torch.cuda.device_count()) < launcher.processes:
            raise ConfigError(
                f"training.launcher = {{processes: {launcher.processes}, strategy: "
                f"{launcher.strategy}}} needs a GPU for each process, and PyTorch sees {there} "
                "here; use a machine with them, lower processes, or set training.launcher=null"
            )


@contextmanager
def _kept(work: Path | None) -> Iterator[Path]:
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
        yield work.resolve()
        return
    with TemporaryDirectory() as scratch:
        yield Path(scratch)


def _command(launcher: LauncherConfig, dtype: str, task: Path) -> list[str]:
    """How `accelerate` is started."""
    strategies = {
        "ddp": ["--multi_gpu"],  # also for processes on CPUs, which the trainer is told
        "fsdp": [
            *("--use_fsdp", "--fsdp_version", "2", "--fsdp_reshard_after_forward", "true"),
            *("--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP"),
            *("--fsdp_state_dict_type", "FULL_STATE_DICT"),  # a checkpoint is one adapter file
        ],
        "zero2": ["--use_deepspeed", "--zero_stage", "2"],
        "zero3": ["--use_deepspeed", "--zero_stage", "3", "--zero3_save_16bit_model", "true"],
    }
    flags = [
        *("--num_processes", str(launcher.processes), "--num_machines", "1"),
        *("--mixed_precision", "bf16" if dtype == "bfloat16" else "no"),
        *("--dynamo_backend", "no", *strategies[launcher.strategy]),
    ]
    if launcher.accelerate_config:
        flags = ["--config_file", str(launcher.accelerate_config.resolve())]
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", *flags),
        *("--main_process_port", str(free_port()), "-m", worker.__name__, str(task)),
    ]
