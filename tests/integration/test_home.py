"""Two first runs over one home, started at once."""

import json
import subprocess
from pathlib import Path

import pytest
from tiny_run import ROOT, SAGE, environment, small_base

pytestmark = pytest.mark.integration


def test_two_first_runs_at_once(tmp_path: Path) -> None:
    home, base = tmp_path / "home", small_base(tmp_path / "base")
    runs = [
        subprocess.Popen(
            [*SAGE, "run", "--preset", "tiny", "--json", "--set", f"model.base={base}"],
            cwd=ROOT,
            env=environment(home),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [run.communicate(timeout=1500) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], [errors[-2000:] for _, errors in said]
    first, second = sorted(
        (json.loads(result) for result, _ in said), key=lambda result: len(result["cached"])
    )
    # Both halves are asked for twice: by the probe and the search, by the rollouts and by steering.
    assert first["cached"] == ["situations search", "situations evaluation"]
    assert second["made"] == []
    assert first["artifacts"] == second["artifacts"]
    (waited,) = [errors for _, errors in said if "is in use by" in errors]
    assert f"process {runs[0].pid} " in waited or f"process {runs[1].pid} " in waited
