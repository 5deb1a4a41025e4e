"""Training that is killed goes on to the same weights, bit by bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from sage_core.training.trainer import last_checkpoint

ROOT = Path(__file__).parents[2]
FILES = ("adapter_model.safetensors", "adapter_config.json", "training_log.json", "lineage.json")


def rounds(base: Path, output: Path, *last: str) -> list[list[str]]:
    """What the rounds say in each process: one that is killed for each of ``last``, and one more
    that goes on to the end."""
    output.mkdir()
    script = Path(__file__).with_name("run_rounds.py")
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, str(script), str(base), str(output), *last],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    said: list[list[str]] = [[]]
    ends = []
    for line in done.stdout.splitlines():
        if line.startswith("ended "):
            ends.append(int(line.split()[1]))
            said.append([])
        elif line.split()[0] in ("m1", "m2", "dpo"):
            said[-1].append(line)
    assert ends == [*[-signal.SIGKILL] * len(last), 0], done.stderr[-4000:]
    return said[:-1]


def test_killed_rounds_end_with_the_same_bytes(tiny_base: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    (said,) = rounds(tiny_base, whole)
    assert said[-1] == "dpo 8"
    # In the second epoch, with two adapters; then goes on from the checkpoint of step 6.
    first, again, last = rounds(tiny_base, killed, "m2 7", "dpo 5")
    assert first[-1] == "m2 7"
    assert (again[0], again[-1]) == ("m2 7", "dpo 5")
    assert last[0] == "dpo 4"
    for name in ("m1", "m2", "dpo"):
        for file in FILES:
            assert (killed / name / file).read_bytes() == (whole / name / file).read_bytes(), name


def test_half_a_checkpoint_is_not_resumed_from(tmp_path: Path) -> None:
    for number, state in ((3, "{}"), (6, '{"log_hist'), (9, None)):
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-3")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]
