"""Two runs over one home, started at once."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_run import ROOM, ROOT, SAGE, environment, run_tiny, settings_of, small_base

pytestmark = pytest.mark.faults


def at_once(home: Path, *settings: str) -> list[dict[str, Any]]:
    """What two runs of these settings give, started at once: first the one that made something.
    Exactly one of them waits, and names the other."""
    overrides = [part for each in settings for part in ("--set", each)]
    runs = [
        subprocess.Popen(
            [*SAGE, "run", "--preset", "tiny", "--json", *overrides],
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
    (waited,) = [errors for _, errors in said if "is in use by" in errors]
    assert f"process {runs[0].pid} " in waited or f"process {runs[1].pid} " in waited
    return sorted((json.loads(text) for text, _ in said), key=lambda result: len(result["cached"]))


def test_two_runs_at_once_over_a_fresh_home_and_a_used_one(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    home = tmp_path / "home"
    settings = [f"model.base={small_base(tmp_path / 'base')}", *settings_of(ROOM)]
    first, second = at_once(home, *settings)
    # Both halves are asked for twice: by the probe and the search, by the rollouts and by steering.
    assert first["cached"] == ["situations search", "situations evaluation"]
    assert second["made"] == []
    assert first["artifacts"] == second["artifacts"]

    third = run_tiny(home, *settings)
    assert third["made"] == []
    assert third["artifacts"] == first["artifacts"]

    other, again = at_once(home, *settings, "seed=1")
    assert "dpo" in other["made"]
    assert again["made"] == []
    assert other["artifacts"] == again["artifacts"] != first["artifacts"]
    seen = "the second waited and said for whom; each artefact made once"
    record_property("fault", ["two runs of the command line, fresh and used home", 2, seen])
