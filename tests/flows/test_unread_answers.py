"""Stages whose answers are not all read: what ends them, what is printed, what is asked again."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from answering_server import Answering, Said, answering
from typer.testing import CliRunner, Result

from flows import cli, environment
from sage_core.engines import loading
from sage_core.schema import (
    AnnotatedDialogue,
    Dialogue,
    Judgement,
    Message,
    Trajectory,
    TrajectoryTurn,
)
from sage_core.storage import read_json, read_rows, write_json, write_rows

STATE = '{"motivation": "vent", "emotion": "sad", "topics": []}'


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(environment, "prepare", lambda quiet: None)
    monkeypatch.setattr(
        loading,
        "prepare_base",
        lambda folder, model: write_json(folder / "base.json", {"base": model.base}),
    )
    with answering(lambda body: Said("Verdict: A")) as running:
        yield running


def sage(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, [str(each) for each in arguments])


def rollouts(path: Path, model: str, number: int) -> Path:
    rows = [
        Trajectory(
            f"{model}/{n}", f"s{n}", "x", "sad",
            (TrajectoryTurn("user", f"Topic {n}.", ()), TrajectoryTurn("assistant", model, ())),
        )
        for n in range(number)
    ]  # fmt: skip
    write_rows(path, rows, Trajectory)
    return path


def judge(tmp_path: Path, server: Answering, situations: int, *more: str, **judge: Any) -> Result:
    settings = json.dumps([{"name": "j", "engine": server.settings, **judge}])
    given = [rollouts(tmp_path / f"{name}.parquet", name, situations) for name in "xy"]
    return sage("judge", "run", *given, "--output", tmp_path / "judged",
                "--set", f"evaluation.judges={settings}",
                *(part for each in more for part in ("--set", each)))  # fmt: skip


def verdicts(tmp_path: Path) -> dict[str, int]:
    rows = read_rows(tmp_path / "judged" / "judgements.parquet", Judgement)
    return {row.outcome: sum(each.outcome == row.outcome for each in rows) for row in rows}


def test_a_stage_ends_above_the_share_and_the_second_start_asks_for_the_rest(
    tmp_path: Path, server: Answering
) -> None:
    """Of 20 answers 2 are cut: 10%, where 5% may be."""
    cut = Said("<think>Answer 'Verdict: A' or", "length")
    server.answer = lambda body: (
        cut if "Topic 3." in body["messages"][-1]["content"] else Said("Verdict: A")
    )
    done = judge(tmp_path, server, 10)
    message = " ".join(str(done.exception).split())
    for part in ("judge j: 2 of 20 answers could not be read (2 cut", "judge/j/a-b/s3/ab",
                 "<think>Answer", "raise answer_tokens, or reasoning_tokens",
                 "evaluation.judges.max_unread_share = 0.05"):  # fmt: skip
        assert part in message
    assert not (tmp_path / "judged").exists()

    server.bodies.clear()
    server.answer = lambda body: Said("Verdict: B")
    done = judge(tmp_path, server, 10)
    assert done.exit_code == 0, done.output
    assert ["Topic 3." in prompt for prompt in server.prompts()] == [True, True]
    assert "judge j: 20 of 20 answers read" in done.stderr
    assert done.stdout.strip() == str(tmp_path / "judged" / "judgements.parquet")
    assert verdicts(tmp_path) == {"read": 20}


def test_unread_items_below_the_share_are_asked_again_on_request_only(
    tmp_path: Path, server: Answering
) -> None:
    server.answer = lambda body: (
        Said(status=400, error="content_filter")
        if "Topic 3." in body["messages"][-1]["content"]
        else Said("Verdict: A")
    )
    done = judge(tmp_path, server, 10, max_unread_share=0.1)
    assert "judge j: 18 of 20 answers read, 2 content_filter" in done.stderr
    assert verdicts(tmp_path) == {"read": 18, "content_filter": 2}
    unread = read_json(tmp_path / "judged" / "answers.json")["unread"]
    assert [(each["request"], each["outcome"]) for each in unread] == [
        ("judge/j/a-b/s3/ab", "content_filter"), ("judge/j/a-b/s3/ba", "content_filter")
    ]  # fmt: skip

    server.bodies.clear()
    server.answer = lambda body: Said("Verdict: B")
    # Another share changes no result, so nothing is asked.
    assert judge(tmp_path, server, 10, max_unread_share=0.2).exit_code == 0
    assert server.bodies == []
    done = judge(tmp_path, server, 10, "ask_again=true", max_unread_share=0.1)
    assert len(server.bodies) == 2
    assert "judge j: 20 of 20 answers read" in done.stderr
    assert verdicts(tmp_path) == {"read": 20}
    # And only where there is something to ask for.
    judge(tmp_path, server, 10, "ask_again=true")
    assert len(server.bodies) == 2


def test_a_hopeless_shard_ends_before_the_next_one(tmp_path: Path, server: Answering) -> None:
    """Four dialogues of 20 turns in shards of one: after the first shard nothing more is asked."""
    turns = tuple(Message("user" if n % 2 == 0 else "assistant", f"{n}.") for n in range(20))
    rows = [Dialogue(f"d{n}", "", f"d{n}", turns) for n in range(4)]
    path = tmp_path / "dialogues.parquet"
    write_rows(path, rows, Dialogue)
    settings = f"annotation={{engine: {json.dumps(server.settings)}, shard_size: 1, topics: written, method: write}}"  # noqa: E501
    command = ("annotate", "--input", path, "--output", tmp_path / "sac", "--set", settings)
    server.answer = lambda body: Said("sad")
    done = sage(*command, "--preset", "tiny")
    assert "annotator: 20 of 20 answers could not be read (20 unreadable" in str(done.exception)
    assert len(server.bodies) == 20

    server.bodies.clear()
    server.answer = lambda body: Said(f"Sure:\n```json\n{STATE}\n```")
    done = sage(*command, "--preset", "tiny")
    assert done.exit_code == 0, done.output
    assert len(server.bodies) == 80
    assert "annotator: 80 of 80 answers read" in done.stderr
    rows_made = read_rows(tmp_path / "sac" / "sac.parquet", AnnotatedDialogue)
    assert {turn.emotion for row in rows_made for turn in row.turns} == {"sad"}
