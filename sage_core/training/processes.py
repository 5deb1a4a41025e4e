"""Which process of a training this is, and starting the others.

Processes run under a supervisor (:mod:`sage_core.engines.supervisor`): they end when the parent
ends them or dies.
"""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sage_core
from sage_core.config.model import ModelConfig
from sage_core.engines import supervisor
from sage_core.engines.loading import device_of
from sage_core.training.job import Job

_LAUNCHED = "SAGE_LAUNCHED"
_SHARED_WEIGHTS = ("fsdp", "zero3")


def launched() -> bool:
    """Whether this is one of several processes that train one model."""
    return _LAUNCHED in os.environ


def rank() -> int:
    """The number of this process among those that train one model, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_main() -> bool:
    """Whether this process is the one that writes the checkpoint."""
    return not launched() or rank() == 0


def count() -> int:
    """How many processes train this model."""
    return int(os.environ.get("WORLD_SIZE", "1"))


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


@contextmanager
def running(command: list[str]) -> "Iterator[subprocess.Popen[bytes]]":
    """A running command, its output on ``stdout``; it has ended with all that it started when the
    block is left. Its Python processes import what this one can."""
    root = str(Path(next(iter(sage_core.__path__))).resolve().parent)
    paths = [root, *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), _LAUNCHED: "1"}
    process = supervisor.start(command, subprocess.PIPE, environment)
    try:
        yield process
    finally:
        supervisor.end(process)
        assert process.stdout is not None
        process.stdout.close()


def free_port() -> int:
    """A TCP port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
