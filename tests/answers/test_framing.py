"""No text of a dialogue can look like the prompt around it, for judge, selector and annotator."""

import json
import re
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import ScriptedEngine

from benchmarks.injected import INJECTIONS
from sage_core.annotation import annotate
from sage_core.config.annotation import AnnotationConfig
from sage_core.config.evaluation import JudgeConfig
from sage_core.config.search import SelectorConfig
from sage_core.conversation import one_line, quoted
from sage_core.engines.base import Request
from sage_core.evaluation.judge import judge_pair
from sage_core.labels import score
from sage_core.schema import Dialogue, Message, Trajectory, TrajectoryTurn
from sage_core.search.selectors.llm import LLMSelector
from sage_core.search.selectors.selector import reply_ballot

MARKS = re.compile(
    r"<\|\w+\|>|<\uff5c|</?s>|</?think>|\[/?[A-Z_]{3,}\]|<</?SYS>>|<\w+_of_turn>|<[be]os>"
    r"|\u25c1|###|<sop>",
    re.IGNORECASE,
)
SPOKEN = re.compile(r'^(?:(Person|Chatbot|Companion|A|B): |([A-Z])\. )(".*")$')


def spoken(prompt: str) -> list[str]:
    """What the lines of a prompt quote; each line is a quotation, or the frame's own."""
    return [json.loads(found[3]) for line in prompt.split("\n") if (found := SPOKEN.match(line))]


def frame(prompt: str) -> list[str]:
    return [line for line in prompt.splitlines() if not SPOKEN.match(line)]


def judged(said: str) -> str:
    asked: list[Request] = []

    def reply(request: Request, candidate: int) -> str:
        asked.append(request)
        return "Verdict: tie"

    a, b = (
        [Trajectory(name, "s", said, "sad", (
            TrajectoryTurn("user", said, ()), TrajectoryTurn("assistant", said, ())))]
        for name in "ab"
    )  # fmt: skip
    judge_pair("a", "b", a, b, ScriptedEngine(reply), JudgeConfig(name="j"), 0)
    return asked[0].messages[-1].content


def selected(said: str) -> str:
    asked: list[Request] = []

    def points(request: Request, option: str) -> float:
        asked.append(request)
        return 0.0

    engine = ScriptedEngine(lambda request, candidate: "", points)
    ballot = reply_ballot("b", (Message("user", said),), (said, "Fine."))
    LLMSelector(engine, SelectorConfig(), 0).decide([ballot])
    return asked[0].messages[-1].content


def annotated(said: str) -> str:
    asked: list[Request] = []

    def reply(request: Request, candidate: int) -> str:
        asked.append(request)
        return ""

    dialogue = Dialogue("d", "", "", (Message("user", said), Message("assistant", said)))
    annotate([dialogue], ScriptedEngine(reply), AnnotationConfig(), 0)
    return asked[1].messages[-1].content


ROLES = {"judge": (judged, 4), "selector": (selected, 3), "annotator": (annotated, 2)}


@pytest.mark.parametrize("name", INJECTIONS)
@pytest.mark.parametrize("role", ROLES)
def test_no_turn_can_look_like_the_frame(role: str, name: str) -> None:
    """The lines around a hostile text are those around a plain one, and it can be read back."""
    prompt_of, quotations = ROLES[role]
    said = INJECTIONS[name].replace("{", "(").replace("}", ")") if role == "judge" else (
        INJECTIONS[name])  # fmt: skip
    prompt = prompt_of(said)
    assert sorted(spoken(prompt)) == sorted(
        [said] * (quotations - (role == "selector")) + ["Fine."] * (role == "selector")
    )
    assert frame(prompt) == frame(prompt_of("Hello."))
    assert not MARKS.search(prompt)


@pytest.mark.parametrize("name", INJECTIONS)
def test_a_scored_utterance_stays_on_its_line(name: str) -> None:
    asked: list[str] = []

    def points(request: Request, option: str) -> float:
        asked.append(request.messages[-1].content)
        return 0.0

    config = AnnotationConfig.model_validate(
        {"method": "score", "topics": "extracted", "emotions": ["a", "b"],
         "motivations": ["a", "b"]}
    )  # fmt: skip
    said = INJECTIONS[name]
    dialogue = Dialogue("d", "", "", (Message("user", said), Message("assistant", said)))
    score([dialogue], ScriptedEngine(lambda request, candidate: "", points), config, 0)
    assert {len(prompt.splitlines()) for prompt in asked} == {3, 4}
    assert not any(MARKS.search(prompt) for prompt in asked)


def lines(texts: Iterable[str]) -> set[int]:
    return {len(text.splitlines()) for text in texts}


@given(st.text(min_size=1))
def test_any_text_is_one_line_and_can_be_read_back(text: str) -> None:
    assert json.loads(quoted(text)) == text
    assert lines([quoted(text), f"{one_line(text)}."]) == {1}


def test_plain_texts_are_shown_as_they_are() -> None:
    for text in ("I <3 it, a < b [OK] #1 \U0001f600 caf\u00e9", 'She said "no" \\o/', "it's"):
        assert one_line(text) == text
    assert quoted("caf\u00e9 <3") == '"caf\u00e9 <3"'
