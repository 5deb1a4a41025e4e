"""How OpenMP's threads wait, in every process that we start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sage_core.config.model import ModelConfig
from sage_core.engines import vllm_server

ROOT = Path(__file__).parents[1]
# libgomp reads its variables when PyTorch loads it, so what counts is that moment.
AT_TORCH = """
import os, sys
class Stop:
    def find_spec(self, name, *rest):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Stop())
import {module}
import torch
"""


def at_torch(module: str, **environment: str) -> str:
    """Both variables in a process that imports ``module``, as it comes to import PyTorch."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", AT_TORCH.format(module=module)],
        cwd=ROOT,
        env={**kept, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "module",
    [
        "flows.cli",  # sage
        "flows.pipeline",  # a worker's flow process
        "sage_core.training.worker",  # a process of `accelerate launch`
        "benchmarks.engines",
        "conftest",  # pytest
    ],
)
def test_both_are_set_before_pytorch_loads(module: str) -> None:
    assert at_torch(module) == "PASSIVE 10000"


def test_the_users_own_values_win() -> None:
    assert at_torch("flows.cli", OMP_WAIT_POLICY="ACTIVE", GOMP_SPINCOUNT="7") == "ACTIVE 7"


def test_a_vllm_server_gets_both() -> None:
    found = vllm_server.environment(Path(sys.executable), ModelConfig())
    assert {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} <= set(found)
