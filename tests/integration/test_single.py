"""Single stages on files, from the command line, with the real model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sage_core.schema import AnnotatedDialogue, Dialogue, Judgement, Trajectory, with_roles
from sage_core.storage import read_rows, write_rows

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SIZES = [
    "search.situations=2", "search.candidates=4", "search.selfplay.max_turns=2",
    "search.selfplay.sampling.max_new_tokens=160", "sft.epochs=1", "dpo.epochs=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def sage(home: Path, *arguments: object) -> None:
    sizes = [part for size in SIZES for part in ("--set", size)]
    command = [sys.executable, "-m", "flows.cli", *map(str, arguments), "--preset", "tiny", *sizes]
    environment = {**os.environ, "SAGE_HOME": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-4000:]


def test_every_stage_by_itself(home: Path) -> None:
    said = ["I lost my keys.", "Oh no, where?", "On the bus.", "Did you call them?"]
    write_rows(
        home / "dialogues.parquet",
        [Dialogue(f"d{number}", "test", f"d{number}", with_roles(said)) for number in range(2)],
        Dialogue,
    )
    sage(home, "annotate", "--input", home / "dialogues.parquet", "--output", home / "sac")
    (first, _) = read_rows(home / "sac" / "sac.parquet", AnnotatedDialogue)
    assert [turn.utterance for turn in first.turns] == said

    m1 = home / "m1"
    sage(home, "train", "sft", "--input", home / "sac" / "sac.parquet", "--output", m1)
    assert (m1 / "adapter_model.safetensors").is_file()

    sage(home, "search", "--agent", m1, "--user", m1, "--output", home / "searched")
    found = home / "searched" / "trajectories.parquet"
    trajectories = read_rows(found, Trajectory)
    assert [len(trajectory.turns) for trajectory in trajectories] == [2, 2]
    # those that are equal, or never leave their states, are no candidates
    assert all(2 <= len(trajectory.turns[1].candidates) <= 4 for trajectory in trajectories)

    sage(home, "train", "sft", "--input", found, "--parent", m1, "--output", home / "m2")
    sage(home, "train", "dpo", "--input", found, "--parent", m1, "--output", home / "dpo")
    assert len({(home / name / "adapter_model.safetensors").read_bytes()
                for name in ("m1", "m2", "dpo")}) == 3  # fmt: skip

    sage(home, "judge", "run", found, found, "--output", home / "judged", "--model-b", "m2")
    verdicts = read_rows(home / "judged" / "judgements.parquet", Judgement)
    assert [(row.model_a, row.model_b, row.order) for row in verdicts] == [
        ("a", "m2", "ab"), ("a", "m2", "ba"),
    ] * 2  # fmt: skip


def test_a_checkpoint_is_never_overwritten(home: Path) -> None:
    (home / "full").mkdir()
    (home / "full" / "x").touch()
    write_rows(home / "one.parquet", [], AnnotatedDialogue)
    done = subprocess.run(
        [
            sys.executable, "-m", "flows.cli", "train", "sft", "--input", home / "one.parquet",
            "--output", home / "full",
        ],
        env={**os.environ, "SAGE_HOME": str(home)},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "is not empty" in done.stderr
