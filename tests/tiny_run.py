"""Real runs of the tiny preset, as a user starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SAGE = [sys.executable, "-m", "flows.cli"]
ROOT = Path(__file__).parents[1]


def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    return {**kept, "SAGE_HOME": str(home)}


def run_tiny(home: Path) -> dict[str, Any]:
    """`sage run --preset tiny --json`; returns its result."""
    done = subprocess.run(
        [*SAGE, "run", "--preset", "tiny", "--json"],
        cwd=ROOT,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result
