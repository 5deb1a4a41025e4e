"""Annotation with a scripted annotator: what is asked, and what becomes of the answers."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import ScriptedEngine

from sage_core.annotation import annotate, read_state
from sage_core.config.annotation import AnnotationConfig
from sage_core.conversation import of_annotated
from sage_core.engines.base import Completion, Request
from sage_core.errors import ContextError
from sage_core.labels import pick, score, score_situations
from sage_core.sac import EMPTY, StateAction, StateActionReply, parse
from sage_core.schema import AnnotatedDialogue, AnnotatedTurn, Dialogue, Situation, with_roles


def answer(motivation: Any, emotion: Any, topics: Any) -> str:
    return json.dumps({"motivation": motivation, "emotion": emotion, "topics": topics})


def dialogue(name: str, *utterances: str) -> Dialogue:
    return Dialogue(name, "test", name, with_roles(utterances))


@pytest.mark.parametrize(
    ("text", "state"),
    [
        (answer("vent", "sad", ["rain", "cold"]), StateAction("vent", "sad", ("rain", "cold"))),
        (answer("vent", "sad", ["rain", "rain"]), StateAction("vent", "sad", ("rain",))),
        (answer("vent", "sad", []), StateAction("vent", "sad", ())),
        # Cut off, or of another shape: no state at all.
        (answer("vent", "sad", ["rain"])[:-4], None),
        ("", None),
        ("sad", None),
        ("[1, 2]", None),
        ("3", None),
        ('{"motivation": "vent"}', None),
        (answer("vent", {"is": "sad"}, ["rain"]), None),
        (answer("vent", "sad", [1]), None),
        # The other forms that models give it.
        (answer("vent", "sad", None), StateAction("vent", "sad", ())),
        (answer("vent", "sad", "rain, cold"), StateAction("vent", "sad", ("rain", "cold"))),
        (answer("vent", ["sad"], ["rain"]), StateAction("vent", "sad", ("rain",))),
        (f"```json\n{answer('vent', 'sad', ['rain'])}\n```", StateAction("vent", "sad", ("rain",))),
        (f"Here it is: {answer('vent', 'sad', [])} Done.", StateAction("vent", "sad", ())),
        (f"{answer('x', 'y', [])} or {answer('vent', 'sad', [])}", StateAction("vent", "sad", ())),
        ('{"Motivation": "vent", "EMOTION ": "sad", "Topics": []}', StateAction("vent", "sad", ())),
        # Values that the text format cannot carry are left out, the others stay.
        (answer("null", "sad", ["rain"]), StateAction(None, "sad", ("rain",))),
        (answer("", "sad", ["a, b", "rain"]), StateAction(None, "sad", ("rain",))),
        (answer("vent", " sad", ["{"]), StateAction("vent", None, ())),
        (answer(None, None, ["rain"]), StateAction(None, None, ("rain",))),
        # Keys of the format, for either role, since a state may be the user's or the agent's.
        (answer("x, u_emotion: y", "sad", []), StateAction(None, "sad", ())),
        (answer("x, a_emotion: y", "sad", []), StateAction(None, "sad", ())),
        (answer("x", "sad", ["a", "u_emotion: b"]), StateAction("x", "sad", ("a",))),
    ],
)
def test_read_state(text: str, state: StateAction | None) -> None:
    assert read_state(text) == state


awkward = st.sampled_from(
    ["null", "", " x", "{", "}", "{}", "a, b", "u_emotion: x", "a_topic: [x]", "x, u_topic: y",
     "x, a_motivation: y", "[", "]", "[]", "u_motivation:"]
) | st.text(max_size=5)  # fmt: skip
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | awkward,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(awkward, inner, max_size=2),
    max_leaves=4,
)
answers = st.builds(answer, anything, anything, st.lists(awkward, max_size=4) | anything)


@given(st.lists(answers | anything.map(json.dumps) | st.text(), min_size=2, max_size=2))
def test_any_answer_gives_a_state_that_chains_can_carry(texts: list[str]) -> None:
    user, agent = (read_state(text) or EMPTY for text in texts)
    annotated = AnnotatedDialogue("d", (turn("user", "hi", user), turn("assistant", "yo", agent)))
    assert parse(of_annotated(annotated)[1].text) == StateActionReply(user, agent, "yo")


def turn(role: str, utterance: str, state: StateAction) -> AnnotatedTurn:
    return AnnotatedTurn(role, utterance, state.motivation, state.emotion, state.topics)


def test_every_utterance_gets_the_answer_to_its_own_request() -> None:
    """The annotator echoes the last line it is shown, so a mix-up would show."""
    asked: list[Request] = []

    def reply(request: Request, candidate: int) -> str:
        asked.append(request)
        last = request.messages[-1].content.splitlines()[-1]
        return answer("echo", None, [last.replace('"', "")])

    dialogues = [dialogue("x", "one", "two", "three", "four"), dialogue("y", "five", "six")]
    annotated = annotate(dialogues, ScriptedEngine(reply), AnnotationConfig(context_turns=1), 5)
    assert [[t.topics for t in d.turns] for d in annotated] == [
        [("A: one",), ("B: two",), ("A: three",), ("B: four",)],
        [("A: five",), ("B: six",)],
    ]
    assert [[(t.role, t.utterance) for t in d.turns] for d in annotated] == [
        [(m.role, m.content) for m in d.messages] for d in dialogues
    ]
    assert len({request.request_id for request in asked}) == 6
    assert {request.seed for request in asked} == {5}
    # One turn of context: the turn before it, and no other.
    assert asked[2].messages[-1].content == 'B: "two"\nA: "three"'
    assert asked[4].messages[-1].content == 'A: "five"'


def test_allowed_values_reach_the_schema() -> None:
    schemas: list[Any] = []

    def reply(request: Request, candidate: int) -> str:
        assert request.constraint is not None
        schemas.append(json.loads(request.constraint.text))
        return answer("vent", "sad", ["rain"])

    config = AnnotationConfig(motivations=("vent", "joke"), emotions=("sad",), max_topics=2)
    annotate([dialogue("x", "one")], ScriptedEngine(reply), config, 0)
    properties = schemas[0]["properties"]
    assert properties["motivation"]["enum"] == ["vent", "joke"]
    assert properties["emotion"]["enum"] == ["sad"]
    assert properties["topics"]["maxItems"] == 2


def test_extracted_topics_share_a_word_with_the_utterance_or_the_one_before() -> None:
    """Not with one further back, and the example of the prompt is dropped like any other."""

    def reply(request: Request, candidate: int) -> str:
        return answer("vent", "sad", ["jazz", "wet bus", "rain"])

    for topics, kept in (
        ("written", [("jazz", "wet bus", "rain")] * 3),
        ("extracted", [("wet bus",), ("wet bus", "rain"), ("rain",)]),
    ):
        config = AnnotationConfig.model_validate({"topics": topics})
        said = [dialogue("x", "The bus again!", "It is the rain.", "Oh no")]
        (annotated,) = annotate(said, ScriptedEngine(reply), config, 0)
        assert [turn.topics for turn in annotated.turns] == kept


def scripted(rewritten: dict[str, str], question: str) -> ScriptedEngine:
    def reply(request: Request, candidate: int) -> str:
        kind = request.request_id.split("/")[0]
        if kind == "rewrite":
            return rewritten.get(request.messages[-1].content, "")
        return question if kind == "bridge" else answer(None, None, [])

    return ScriptedEngine(reply)


def utterances(annotated: list[AnnotatedDialogue]) -> list[list[str]]:
    return [[t.utterance for t in d.turns] for d in annotated]


def test_rewriting_changes_the_turns_that_got_an_answer() -> None:
    dialogues = [dialogue("x", "helo", "hi"), dialogue("y", "bye", "see ya")]
    engine = scripted({"helo": " Hello. ", "see ya": "See you."}, "")
    rewritten = annotate(dialogues, engine, AnnotationConfig(rewrite=True), 0)
    assert utterances(rewritten) == [["Hello.", "hi"], ["bye", "See you."]]


def test_a_rewrite_that_was_cut_off_is_not_used() -> None:
    class Cutting(ScriptedEngine):
        def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
            return [
                [replace(c, finish_reason="length") for c in row]
                for row in super().generate(requests)
            ]

    engine = Cutting(lambda request, candidate: "Hello and then it went o")
    annotated = annotate([dialogue("x", "helo")], engine, AnnotationConfig(rewrite=True), 0)
    assert utterances(annotated) == [["helo"]]


def test_a_bridging_question_goes_to_replies_without_one_that_are_answered() -> None:
    """Of the replies b, d?, f and h: d asks already, and h is followed by nothing."""
    dialogues = [dialogue("x", "a", "b", "c", "d?", "e", "f", "g", "h")]
    config = AnnotationConfig(bridging_question=True)
    bridged = annotate(dialogues, scripted({}, " And you? "), config, 0)
    assert utterances(bridged) == [["a", "b And you?", "c", "d?", "e", "f And you?", "g", "h"]]
    unchanged = annotate(dialogues, scripted({}, "That is no question."), config, 0)
    assert utterances(unchanged) == [["a", "b", "c", "d?", "e", "f", "g", "h"]]


LIMIT = 40


class SmallContext(ScriptedEngine):
    """Refuses all requests at once if one shows more than ``LIMIT`` words, as engines do."""

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        self.check(requests)
        return super().generate(requests)

    def choose(
        self, requests: Sequence[Request], options: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        self.check(requests)
        return super().choose(requests, options)

    def check(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if len(request.messages[-1].content.split()) > LIMIT:
                raise ContextError(f"the prompt of '{request.request_id}' is too long")


LONG = [
    dialogue("short", "one", "two"),
    dialogue("long", "one", "word " * 100, "three"),
    dialogue("close", *["word " * (LIMIT - 15)] * 3),  # too long only with the turns before it
]


@pytest.mark.parametrize("more", [{}, {"rewrite": True, "bridging_question": True}])
def test_a_long_utterance_costs_its_dialogue_and_no_other(more: dict[str, bool]) -> None:
    engine = SmallContext(lambda request, candidate: answer("echo", "sad", ["word"]))
    annotated = annotate(LONG, engine, AnnotationConfig.model_validate(more), 0)
    assert [(each.dialogue_id, len(each.turns)) for each in annotated] == [
        ("short", 2), ("long", 0), ("close", 3)
    ]  # fmt: skip
    assert {turn.emotion for each in annotated for turn in each.turns} == {"sad"}


def test_a_long_utterance_costs_its_dialogue_where_values_are_scored() -> None:
    settings = AnnotationConfig(
        method="score", topics="extracted", motivations=("vent", "tell"), emotions=("sad", "glad")
    )
    engine = SmallContext(lambda request, candidate: "", lambda request, option: float(len(option)))
    scored = score(LONG, engine, settings, 0)
    assert [len(each.turns) for each in scored] == [2, 0, 3]
    assert [len(each.turns) for each in pick(scored, settings)] == [2, 0, 3]
    situations = [Situation(n, text, "sad", "search") for n, text in (("a", "x"), ("b", "y " * 99))]
    assert len(score_situations(situations, engine, settings, 0)) == 1


def test_the_part_of_the_corpus_goes_on() -> None:
    engine = ScriptedEngine(lambda request, candidate: answer("echo", "sad", []))
    (held_out,) = annotate([replace(LONG[0], split="test")], engine, AnnotationConfig(), 0)
    assert held_out.split == "test"
