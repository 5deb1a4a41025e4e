"""What servers really answer, read by judge, annotator and selector, over HTTP."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from answering_server import Said, answering

from sage_core.annotation import annotate
from sage_core.answers.tally import Tally
from sage_core.config.annotation import AnnotationConfig
from sage_core.config.evaluation import JudgeConfig
from sage_core.config.search import SelectorConfig
from sage_core.engines.answers import AnswerStore
from sage_core.engines.base import Completion, Request
from sage_core.engines.openai_http import OpenAIEngine
from sage_core.errors import EngineError
from sage_core.evaluation.judge import judge_pair
from sage_core.schema import Dialogue, Judgement, Message, Trajectory, TrajectoryTurn
from sage_core.search.selectors.llm import LLMSelector
from sage_core.search.selectors.selector import reply_ballot

STATE = '{"motivation": "vent", "emotion": "sad", "topics": ["rain"]}'


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def rollouts(model: str, situations: int) -> list[Trajectory]:
    return [
        Trajectory(
            f"{model}/{n}", f"s{n}", "x", "sad",
            (TrajectoryTurn("user", f"Topic {n}.", ()), TrajectoryTurn("assistant", model, ())),
        )
        for n in range(situations)
    ]  # fmt: skip


def judge(
    engine: OpenAIEngine, situations: int = 1, **settings: Any
) -> tuple[list[Judgement], Tally]:
    tally = Tally()
    config = JudgeConfig(name="j", **settings)
    rows = judge_pair(
        "x", "y", rollouts("x", situations), rollouts("y", situations), engine, config, 0,
        tally=tally,
    )  # fmt: skip
    return rows, tally


def annotator(engine: OpenAIEngine, **settings: Any) -> tuple[Any, Tally]:
    tally = Tally()
    dialogue = Dialogue("d", "", "", (Message("user", "It rains."),))
    (row,) = annotate(
        [dialogue], engine, AnnotationConfig.model_validate(settings), 0, tally=tally
    )  # fmt: skip
    return row.turns[0].state, tally


@pytest.mark.parametrize(
    ("said", "verdict", "outcome"),
    [
        (Said("Verdict: B"), "model_b", "read"),
        (Said("<think>Is it 'Verdict: A'? No.</think>\n[[B]]"), "model_b", "read"),
        (Said("B", message={"reasoning_content": "Verdict: A, I would say"}), "model_b", "read"),
        (Said("<think>I am to answer 'Verdict: A', 'Verdict: B'", "length"), "unparsed", "cut"),
        (Said("<think>Verdict: A"), "unparsed", "empty"),
        (Said("", "length", message={"reasoning_content": "Verdict: A"}), "unparsed", "cut"),
        (Said(None, message={"reasoning_content": "Verdict: A"}), "unparsed", "empty"),
        (Said("Let me compare A and B", "length"), "unparsed", "cut"),
        (Said("Verdict: B\n\nIn B the chatbot", "length"), "model_b", "read"),
        (Said("I'm sorry, but I can't help with that."), "unparsed", "refused"),
        (Said("", "content_filter"), "unparsed", "content_filter"),
        (Said(None, message={"refusal": "I will not judge."}), "unparsed", "content_filter"),
        (Said("Both have their merits, it depends."), "unparsed", "unreadable"),
        (
            Said(status=400, error="The response was filtered: content management policy"),
            "unparsed",
            "content_filter",
        ),
        (
            Said(status=400, error="This model's maximum context length is 512 tokens"),
            "unparsed",
            "context_length",
        ),
        (
            Said(status=400, error="Could not finish the message because max_tokens was reached"),
            "unparsed",
            "cut",
        ),
        (Said(status=500, error="out of memory"), "unparsed", "failed"),
    ],
)
def test_the_judges_answers(said: Said, verdict: str, outcome: str, tmp_path: Path) -> None:
    """One item of six gets ``said``; the others are read, and only it is asked again."""

    def answer(body: dict[str, Any]) -> Said:
        prompt = body["messages"][-1]["content"]
        first_is_x = prompt.index('"x"') < prompt.index('"y"')
        return said if "Topic 1." in prompt and first_is_x else Said("Verdict: tie")

    with answering(answer) as server:
        path = tmp_path / "answers.db"
        rows, tally = judge(OpenAIEngine(server.config, AnswerStore(path)), 3)
        assert [row.verdict for row in rows] == ["tie", "tie", verdict, "tie", "tie", "tie"]
        assert [row.outcome for row in rows][2] == outcome
        counts = tally.as_dict()["roles"]["judge j"]
        read = 6 if outcome == "read" else 5
        assert counts == {"asked": 6, "read": read} | ({} if read == 6 else {outcome: 1})
        assert [each.request for each in tally.unread] == (
            [] if read == 6 else ["judge/j/x-y/s1/ab"]
        )
        # Nothing unread is kept as an answer: a second start asks for that item, and no other.
        server.bodies.clear()
        server.answer = lambda body: Said("Verdict: A")
        rows, tally = judge(OpenAIEngine(server.config, AnswerStore(path)), 3)
        assert rows[2].verdict == ("model_b" if read == 6 else "model_a")
        assert ["Topic 1." in prompt for prompt in server.prompts()] == [True] * (6 - read)
        assert tally.unread == []


def test_the_judges_budget_is_a_setting_and_reasoning_has_its_own() -> None:
    with answering(lambda body: Said("Verdict: A")) as server:
        judge(OpenAIEngine(server.config), answer_tokens=50, reasoning_tokens=1000)
        assert {body["max_completion_tokens"] for body in server.bodies} == {1050}


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (Said(STATE), "read"),
        (Said(f"```json\n{STATE}\n```"), "read"),
        (Said(f"<think>{STATE.replace('sad', 'glad')}</think>{STATE}"), "read"),
        (Said(f"Here is the label:\n{STATE}\nI hope it helps."), "read"),
        (Said(STATE.replace("motivation", "Motivation").replace("topics", "TOPICS")), "read"),
        (Said(STATE.replace('["rain"]', '"rain"')), "read"),
        (Said(STATE.replace('"sad"', '"Sad"')), "read"),
        (Said(f"{STATE}\n\nExplanation: the", "length"), "read"),
        (Said(STATE[:-5], "length"), "cut"),
        (Said(f"Such as {STATE}, but", "length"), "cut"),
        (Said(f"<think>{STATE}", "length"), "cut"),
        (Said("sad, about the rain"), "unreadable"),
        (Said('{"emotion": "sad"}'), "unreadable"),
        (Said("I can't label this."), "refused"),
        (Said(""), "empty"),
        (Said(status=400, error="flagged by moderation"), "content_filter"),
    ],
)
def test_the_annotators_answers(said: Said, outcome: str, tmp_path: Path) -> None:
    with answering(lambda body: said) as server:
        store = AnswerStore(tmp_path / "answers.db")
        for _ in range(2):
            state, tally = annotator(OpenAIEngine(server.config, store), emotions=["sad", "glad"])
            read = outcome == "read"
            assert (state.motivation, state.emotion, state.topics) == (
                ("vent", "sad", ("rain",)) if read else (None, None, ())
            )
            assert tally.as_dict()["roles"]["annotator"] == {"asked": 1, outcome: 1}
        assert len(server.bodies) == (1 if read else 2)


def test_the_selectors_answers(tmp_path: Path) -> None:
    """Each ballot with its failure is undecided; the others are decided, and are kept."""

    def answer(body: dict[str, Any]) -> Said:
        prompt = body["messages"][-1]["content"]
        if "filtered" in prompt:
            return Said(status=400, error="content_filter")
        if "reasoning" in prompt:
            return Said("<think>", logprobs={"<think>": -0.1, "Okay": -2.0})
        return Said("A", logprobs={"A": -0.1, "B": -2.0})

    ballots = [
        reply_ballot(name, (Message("user", name),), ("x", "y"))
        for name in ("fine", "filtered", "reasoning", "good")
    ]
    with answering(answer) as server:
        store = AnswerStore(tmp_path / "answers.db")
        for asked in (4, 2):
            server.bodies.clear()
            engine = OpenAIEngine(server.config, store)
            decisions = LLMSelector(engine, SelectorConfig(), 0).decide(ballots)
            outcomes = [decision.showings[0].outcome for decision in decisions]
            assert outcomes == ["read", "content_filter", "unreadable", "read"]
            assert [max(decision.votes) for decision in decisions] == [1, 0, 0, 1]
            assert decisions[1].notes == ("selector_unreadable: 1 of 1 (content_filter)",)
            assert len(server.bodies) == asked


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        (Said(status=401, error="no such key"), 1),
        (Said(status=404, error="no such model"), 1),
        (Said(status=400, error="I will not"), 21),
        (Said(status=503, error="down"), 21),
    ],
)
def test_a_server_that_fails_on_all_is_not_asked_on(said: Said, sent: int) -> None:
    with answering(lambda body: said) as server:
        config = server.config.model_copy(update={"max_concurrency": 1})
        with pytest.raises(EngineError, match=said.error):
            judge(OpenAIEngine(config), 30)
        assert len(server.bodies) == sent


def test_answers_kept_before_they_were_read_this_way_are_asked_again(tmp_path: Path) -> None:
    """An answer store may hold what an older version took for an answer."""
    with answering(lambda body: Said("<think>Verdict: A", "length")) as server:
        store = AnswerStore(tmp_path / "answers.db")

        class Old(OpenAIEngine):
            def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
                return super().generate([replace(each, is_answer=None) for each in requests])

        judge(Old(server.config, store))
        server.bodies.clear()
        server.answer = lambda body: Said("Verdict: A")
        rows, _ = judge(OpenAIEngine(server.config, store))
        assert [row.verdict for row in rows] == ["model_a", "model_b"]
        assert len(server.bodies) == 2
