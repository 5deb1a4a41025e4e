"""Annotator and judge on a real OpenAI-compatible server that is not made for this project:
``transformers serve`` with the embedded model.

It takes ``response_format`` and does not heed it, so that states are asked for in words.
"""

import json
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from typer.testing import CliRunner, Result

from flows import cli
from sage_core.config.model import ModelConfig
from sage_core.engines.loading import prepare_base, source_of
from sage_core.schema import (
    AnnotatedDialogue,
    Dialogue,
    Judgement,
    Trajectory,
    TrajectoryTurn,
    with_roles,
)
from sage_core.storage import read_json, read_rows, write_rows

pytestmark = pytest.mark.services

SAID = (
    ("I lost my keys today.", "Oh no! Where did you have them last?"),
    ("My sister had a baby!", "How wonderful. What is the name?"),
)
START_S = 300


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The settings of an engine that speaks to the server."""
    folder = tmp_path_factory.mktemp("base")
    prepare_base(folder, ModelConfig())
    weights = source_of(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / "server.log"
    program = "from transformers.cli.transformers import main; main()"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-c", program, "serve", weights, "--device", "cpu",
             "--host", "127.0.0.1", "--port", str(port)],
            stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        ) as server,
    ):  # fmt: skip
        try:
            _wait(server, f"http://127.0.0.1:{port}/health", log)
            yield json.dumps({
                "kind": "openai", "model": weights, "max_concurrency": 1, "timeout_s": 300,
                "base_url": f"http://127.0.0.1:{port}/v1",
            })  # fmt: skip
        finally:
            server.kill()


def _wait(server: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            with urlopen(address, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"no server after {START_S} s: {log.read_text(errors='replace')[-2000:]}")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def sage(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(each) for each in arguments])


def test_two_dialogues_are_annotated(
    tmp_path: Path, engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [Dialogue(f"d{n}", "s", f"d{n}", with_roles(said)) for n, said in enumerate(SAID)]
    write_rows(tmp_path / "dialogues.parquet", rows, Dialogue)
    with caplog.at_level(logging.WARNING):
        done = sage(
            "annotate", "--input", tmp_path / "dialogues.parquet", "--output", tmp_path / "sac",
            "--set", f"annotation.engine={engine}", "--set", "annotation.method=write",
            "--set", "annotation.topics=written", "--set", "annotation.max_unread_share=1",
        )  # fmt: skip
    assert done.exit_code == 0, (done.output, done.exception)
    assert "structured_output: prompt instead of json_schema (it is ignored)" in caplog.text
    annotated = read_rows(tmp_path / "sac" / "sac.parquet", AnnotatedDialogue)
    assert [tuple(turn.utterance for turn in row.turns) for row in annotated] == list(SAID)
    counts = read_json(tmp_path / "sac" / "answers.json")["roles"]["annotator"]
    assert counts["asked"] == 4
    assert sum(counts.values()) == 2 * counts["asked"]  # each has one outcome
    states = [turn.state for row in annotated for turn in row.turns]
    written = sum(any((state.motivation, state.emotion, state.topics)) for state in states)
    assert written == counts.get("read", 0) > 0


def test_a_pair_is_judged_in_both_orders(tmp_path: Path, engine: str) -> None:
    files = []
    for model, reply in (("a", SAID[0][1]), ("b", "Keys are keys.")):
        turns = (TrajectoryTurn("user", SAID[0][0], ()), TrajectoryTurn("assistant", reply, ()))
        row = Trajectory(f"{model}/0", "s0", SAID[0][0], "sad", turns)
        files.append(tmp_path / f"{model}.parquet")
        write_rows(files[-1], [row], Trajectory)
    judges = f'[{{"name": "served", "max_unread_share": 1, "engine": {engine}}}]'
    done = sage("judge", "run", *files, "--output", tmp_path / "judged",
                "--set", f"evaluation.judges={judges}")  # fmt: skip
    assert done.exit_code == 0, (done.output, done.exception)
    found = read_rows(tmp_path / "judged" / "judgements.parquet", Judgement)
    assert [(row.item_id, row.order) for row in found] == [("s0", "ab"), ("s0", "ba")]
    for row in found:
        assert row.raw
        assert (row.verdict == "unparsed") == (row.outcome != "read")
