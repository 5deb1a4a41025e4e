"""Training in several processes: `accelerate launch` (DDP, FSDP, DeepSpeed ZeRO) as a sub-process.

The parent writes what is to be done as JSON and Parquet into the work folder, and each process that
`accelerate` starts runs this module on it. They live on a leash (:mod:`sage_core.engines.leash`):
whatever ends the parent or its interest in them ends them all.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sage_core
from sage_core import errors
from sage_core.config import (
    DPOConfig,
    LauncherConfig,
    LoraConfig,
    ModelConfig,
    SFTConfig,
    TrainingConfig,
)
from sage_core.engines import leash
from sage_core.engines.loading import device_of, dtype_of
from sage_core.errors import ConfigError, EngineError, SageError
from sage_core.schema import PreferencePair, TrainingDialogue
from sage_core.storage import read_json, read_rows, write_json, write_rows
from sage_core.training.job import Job, Progress

_SPEC, _EXAMPLES, _LOG = "spec.json", "examples.parquet", "launch.log"
_ERROR = "error-{}.json"  # of each process
_LAUNCHED = "SAGE_LAUNCHED"
_STEP = "@sage-step"
_GRACE_S = 10.0
_TAIL_LINES = 25
_SHARED_WEIGHTS = ("fsdp", "zero3")


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


def launched() -> bool:
    """Whether this is one of the processes that :func:`train` starts."""
    return _LAUNCHED in os.environ


def model_here(job: Job) -> ModelConfig:
    """Where this process loads the model: weights that are to be shared out start in its memory,
    others on its own GPU."""
    launcher, device = job.training.launcher, job.model.device
    if not launched() or launcher is None or device == "cpu":
        return job.model
    shared = launcher.strategy in _SHARED_WEIGHTS and job.model.quantization == "none"
    if shared or not device_of(job.model).startswith("cuda"):
        return job.model.model_copy(update={"device": "cpu"})
    return job.model.model_copy(update={"device": f"cuda:{os.environ.get('LOCAL_RANK', '0')}"})


def is_main() -> bool:
    """Whether this process is the one that writes the checkpoint."""
    return os.environ.get("RANK", "0") == "0"


def train(
    folder: Path,
    job: Job,
    examples: Sequence[TrainingDialogue] | Sequence[PreferencePair],
    settings: SFTConfig | DPOConfig,
    work: Path | None,
    on_step: Progress,
) -> None:
    """As :func:`sage_core.training.sft.train_sft` or :func:`sage_core.training.dpo.train_dpo`, by
    the kind of ``settings``, in the processes that ``job.training.launcher`` asks for.

    Raises:
        SageError: what a process raised.
        EngineError: they ended otherwise, with the end of their log.
    """
    assert job.training.launcher is not None
    with _kept(work) as kept:
        dpo = isinstance(settings, DPOConfig)
        rows: Any = examples
        write_rows(kept / _EXAMPLES, rows, PreferencePair if dpo else TrainingDialogue)
        spec = {
            "stage": "dpo" if dpo else "sft",
            "folder": str(folder.resolve()),
            "work": str(kept),
            "settings": settings.model_dump(mode="json"),
            "job": _as_json(job),
        }
        write_json(kept / _SPEC, spec)
        for old in kept.glob(_ERROR.format("*")):
            old.unlink()
        command = _command(job.training.launcher, dtype_of(job.model), kept / _SPEC)
        with (kept / _LOG).open("wb") as log, _leashed(command) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(_STEP.encode()):
                    step, steps = line.split()[1:]
                    on_step(int(step), int(steps))
                else:
                    log.write(line)
            status = process.wait()
        for path in sorted(kept.glob(_ERROR.format("*"))):
            error = read_json(path)
            raise getattr(errors, error["type"])(error["message"])
        if status:
            text = (kept / _LOG).read_text(encoding="utf-8", errors="replace")
            tail = "\n".join(text.splitlines()[-_TAIL_LINES:])
            raise EngineError(
                f"`accelerate launch` ended with status {status}; its log in '{kept / _LOG}' ends "
                f"with:\n{tail}\nMend that, or set training.launcher=null"
            )


@contextmanager
def _kept(work: Path | None) -> Iterator[Path]:
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
        yield work.resolve()
        return
    with TemporaryDirectory() as scratch:
        yield Path(scratch)


@contextmanager
def _leashed(command: list[str]) -> "Iterator[subprocess.Popen[bytes]]":
    """A running command, which has ended with all it started when the block is left."""
    root = str(Path(next(iter(sage_core.__path__))).resolve().parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, leash.__file__, str(_GRACE_S), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S + leash.KILLED_S)
        # For what a leash that was killed itself has left behind.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def _command(launcher: LauncherConfig, dtype: str, spec: Path) -> list[str]:
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
        *("--main_process_port", str(_free_port()), "-m", __name__, str(spec)),
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _as_json(job: Job) -> dict[str, Any]:
    return {
        **asdict(job),
        "base": str(job.base.resolve()),
        "parent": str(job.parent.resolve()) if job.parent else None,
        **{
            name: getattr(job, name).model_dump(mode="json")
            for name in ("model", "lora", "training")
        },
    }


def _job(record: dict[str, Any]) -> Job:
    return Job(
        record["name"],
        Path(record["base"]),
        Path(record["parent"]) if record["parent"] else None,
        ModelConfig.model_validate(record["model"]),
        LoraConfig.model_validate(record["lora"]),
        TrainingConfig.model_validate(record["training"]),
        record["seed"],
    )


def main(path: Path) -> None:
    """Take part in the training that ``path`` describes."""
    os.environ[_LAUNCHED] = "1"
    from sage_core.training.dpo import train_dpo
    from sage_core.training.sft import train_sft

    spec = read_json(path)
    work = Path(spec["work"])
    job = _job(spec["job"])
    folder = Path(spec["folder"])
    try:
        if spec["stage"] == "sft":
            dialogues = read_rows(work / _EXAMPLES, TrainingDialogue)
            settings = SFTConfig.model_validate(spec["settings"])
            train_sft(folder, job, dialogues, settings, work, _say)
        else:
            pairs = read_rows(work / _EXAMPLES, PreferencePair)
            train_dpo(folder, job, pairs, DPOConfig.model_validate(spec["settings"]), work, _say)
    except SageError as error:
        record = {"type": type(error).__name__, "message": str(error)}
        write_json(work / _ERROR.format(os.environ.get("RANK", "0")), record)
        sys.exit(2)


def _say(step: int, steps: int) -> None:
    print(_STEP, step, steps, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
