"""Pairwise judging with a scripted judge: orders, verdicts, and what the judge sees."""

import json

import pytest
from scripted_engine import ScriptedEngine

from sage_core.answers.verdicts import read_verdict
from sage_core.config.evaluation import JudgeConfig
from sage_core.engines.base import Request
from sage_core.errors import DataError
from sage_core.evaluation.judge import judge_pair, model_pairs, verdict_of
from sage_core.schema import Order, Trajectory, TrajectoryTurn, Verdict

STATES = "{u_motivation: vent, u_emotion: sad, u_topic: []} {a_motivation: x, a_topic: [y]} "


def rollout(model: str, situation: str, *replies: str, states: str = STATES) -> Trajectory:
    turns = [TrajectoryTurn("user", f"About {situation}.", ())]
    for number, reply in enumerate(replies):
        turns.append(TrajectoryTurn("assistant", states + reply, ()))
        turns.append(TrajectoryTurn("user", f"Well {number}.", ()))
    name = f"{model}/{situation}"
    return Trajectory(name, situation, f"About {situation}.", "sad", tuple(turns))


@pytest.mark.parametrize(
    ("text", "ab", "ba"),
    [
        ("Verdict: A", "model_a", "model_b"),
        ("Verdict: B", "model_b", "model_a"),
        ("Verdict: tie", "tie", "tie"),
        ("verdict: b", "model_b", "model_a"),
        ("VERDICT - **A**.", "model_a", "model_b"),
        ("Verdict: TIE!", "tie", "tie"),
        # The last verdict counts.
        ("'Verdict: A' would be rash.\nVerdict: B", "model_b", "model_a"),
        ("Verdict: tie? No. Verdict: A", "model_a", "model_b"),
        # No verdict is no agreement.
        ("", "unparsed", "unparsed"),
        ("Verdict:", "unparsed", "unparsed"),
        ("Verdict: C", "unparsed", "unparsed"),
        ("Verdict: Both", "unparsed", "unparsed"),
    ],
)
def test_verdicts_are_mapped_back_to_models(text: str, ab: Verdict, ba: Verdict) -> None:
    grade = read_verdict(text)
    assert verdict_of(grade, "ab") == ab
    assert verdict_of(grade, "ba") == ba


def judged(
    answer: str | None, asked: list[Request], judge: JudgeConfig | None = None
) -> list[tuple[str, Order, Verdict]]:
    """Judge two models on two situations; answer None finds the better reply in the prompt."""

    def reply(request: Request, candidate: int) -> str:
        asked.append(request)
        if answer is not None:
            return answer
        text = request.messages[-1].content
        return f"Verdict: {'A' if text.index('GOOD') < text.index('Conversation B:') else 'B'}"

    good = [rollout("m1", "rain", "GOOD one"), rollout("m1", "cats", "GOOD two", "GOOD three")]
    poor = [rollout("m2", "cats", "poor"), rollout("m2", "rain", "poor", "poor {too}")]
    judgements = judge_pair(
        "m1", "m2", good, poor, ScriptedEngine(reply), judge or JudgeConfig(name="j"), 3
    )
    assert {(j.judge, j.model_a, j.model_b) for j in judgements} == {("j", "m1", "m2")}
    return [(j.item_id, j.order, j.verdict) for j in judgements]


def test_a_fair_judge_names_the_same_model_in_both_orders() -> None:
    asked: list[Request] = []
    assert judged(None, asked) == [
        ("rain", "ab", "model_a"),
        ("rain", "ba", "model_a"),
        ("cats", "ab", "model_a"),
        ("cats", "ba", "model_a"),
    ]
    assert len({request.request_id for request in asked}) == 4
    assert {request.seed for request in asked} == {3}


def test_a_judge_that_always_names_the_first_contradicts_itself() -> None:
    verdicts = [verdict for _, _, verdict in judged("Verdict: A", [])]
    assert verdicts == ["model_a", "model_b", "model_a", "model_b"]


def test_both_conversations_are_about_one_situation_and_change_places() -> None:
    asked: list[Request] = []
    judged("Verdict: tie", asked)
    for ab, ba in ((asked[0], asked[1]), (asked[2], asked[3])):
        a_first, b_first = (request.messages[-1].content for request in (ab, ba))
        assert a_first.index("GOOD") < a_first.index("poor")
        assert b_first.index("poor") < b_first.index("GOOD")
        assert sorted(a_first.split()) == sorted(b_first.split())
    assert "rain" in asked[0].messages[-1].content
    assert "cats" not in asked[0].messages[-1].content


def test_the_judge_sees_no_states() -> None:
    asked: list[Request] = []
    judged("Verdict: tie", asked)
    for request in asked:
        text = json.dumps([message.content for message in request.messages])
        assert "u_motivation" not in text
        assert "a_topic" not in text
    # Braces of the utterance are no states.
    assert 'Chatbot: "poor {too}"' in asked[0].messages[-1].content


def test_the_answer_is_kept_raw() -> None:
    engine = ScriptedEngine(lambda request, candidate: " I cannot say. ")
    (first, _) = judge_pair(
        "a", "b", [rollout("a", "x", "1")], [rollout("b", "x", "2")], engine,
        JudgeConfig(name="j"), 0,
    )  # fmt: skip
    assert (first.raw, first.verdict, first.outcome) == (" I cannot say. ", "unparsed", "refused")


def test_the_prompts_criteria_are_the_configured_ones() -> None:
    questions: dict[str, str] = {}
    for prompt in ("open", "companion"):
        asked: list[Request] = []
        judged("Verdict: tie", asked, JudgeConfig(name="j", prompt=prompt))  # type: ignore[arg-type]
        questions[prompt] = asked[0].messages[0].content
    assert "funny and sympathetic" in questions["companion"]
    assert "funny" not in questions["open"]


def test_different_situations_cannot_be_compared() -> None:
    engine = ScriptedEngine(lambda request, candidate: "Verdict: tie")
    with pytest.raises(DataError, match="m1 and m2 were rolled out on different situations"):
        judge_pair(
            "m1", "m2", [rollout("m1", "rain", "a")], [rollout("m2", "cats", "b")], engine,
            JudgeConfig(name="j"), 0,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("refined", "expected"),
    [
        (["m1", "m2"], ["m0-m1", "raw-m1", "m1-m2", "m2-dpo", "m0-dpo"]),
        # The paper's two rounds and its Table 1.
        (["m1", "m2", "m3"], ["m0-m1", "raw-m1", "m1-m2", "m2-m3", "m3-dpo", "m0-dpo"]),
        (
            ["m1", "m2", "m3", "m4"],
            ["m0-m1", "raw-m1", "m1-m2", "m2-m3", "m3-m4", "m4-dpo", "m0-dpo"],
        ),
    ],
)
def test_pairs_of_the_papers_table(refined: list[str], expected: list[str]) -> None:
    pairs = model_pairs(["m0", "raw", *refined, "dpo"])
    assert ["-".join(pair) for pair in pairs] == expected
