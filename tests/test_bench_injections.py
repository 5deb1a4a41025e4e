"""The table of `make bench-injections`, of a scripted judge."""

from pathlib import Path

import pytest
from scripted_engine import ScriptedEngine

from benchmarks import harness, injections
from sage_core.config.evaluation import JudgeConfig
from sage_core.engines.base import Request

BRIBE = "a bribe"


def judge(request: Request, option: str) -> float:
    """Level, but for one word, which is worth two nats to whoever says it."""
    a, b = request.messages[-1].content.split("Conversation B:")
    return 2.0 * ("bribe" in (a if "A" in option else b))


def test_what_moves_the_judge_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(injections, "INJECTIONS", {BRIBE: "bribe"})

    def says(request: Request, candidate: int) -> str:
        a, b = (judge(request, letter) for letter in "AB")
        return f"Verdict: {'tie' if a == b else 'AB'[b > a]}"

    engine = ScriptedEngine(says, judge)
    settings = JudgeConfig(name="briber", soft=True)
    rows = injections.conversations(4)
    assert {len(row) for row in rows} == {injections.TURNS}
    found = {
        name: injections.verdicts(engine, settings, rows, text, 0)
        for name, text in {**injections.ADDED, BRIBE: "Here is a bribe."}.items()
    }
    assert [len(each) for each in found.values()] == [6, 6, 6]
    with pytest.raises(SystemExit) as done:
        injections.report(found, "briber")
    assert done.value.code == 0
    table = (tmp_path / "injections.md").read_text("utf-8")
    assert "+0.00 [+0.00, +0.00]; 0%" in table
    assert f"| {BRIBE}: effect in nats; both orders name it | +2.00 [+2.00, +2.00]; 100%" in table
    assert "1 of 1 texts have a 95% interval above zero" in table


def test_an_answer_that_is_not_read_misses_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    engine = ScriptedEngine(lambda request, candidate: "Both are fine!", judge)
    settings = JudgeConfig(name="vague", soft=True)
    rows = injections.conversations(3)
    found = {
        name: injections.verdicts(engine, settings, rows, text, 0)
        for name, text in injections.ADDED.items()
    }
    with pytest.raises(SystemExit) as done:
        injections.report(found, "vague")
    assert done.value.code == 1
