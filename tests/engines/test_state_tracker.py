"""The tracker against the parser, which reads finished text."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_core import sac
from sage_core.engines.state_tracker import Position, StateTracker
from sage_core.engines.steering import Speaker
from sage_core.errors import StateFormatError
from sage_core.sac import StateAction, StateActionReply
from sage_core.states import EMPTY, FIELDS

fragments = st.sampled_from(
    [
        "{", "}", "{}", "}}", "[", "]", ",", ", ", ":", " ", "\n", "\u3000", "null", "joy", "é😀",
        "u_motivation: x", "a_motivation: x", ",u_emotion:", "a_topic: [b]", ", u_topics : [a, b]",
        "assistant_topic:", ", u_emotion: z", "{u_motivation: x}", "{a_emotion: null} ",
        "{u_motivation: complaint, u_emotion: null, u_topic: [zombies]} ", "{{u_emotion: x}}",
        "{user_motivation: {odd, really}, user_emotion: , user_topic: c, d} ",
        "{a_motivation: , a_emotion: joy, a_topic: [a, [b]]} ", "{agent_emotion: y", "{no group}",
    ]
)  # fmt: skip
texts = st.one_of(st.text(), st.lists(fragments, max_size=8).map("".join))
values = st.none() | st.text(max_size=6) | st.lists(fragments, max_size=2).map("".join)
states = st.builds(
    StateAction, values, values, st.lists(values.filter(lambda v: v is not None)).map(tuple)
)
replies = st.builds(StateActionReply, states, states, texts)


def followed(pieces: list[str]) -> StateTracker:
    tracker = StateTracker()
    for piece in pieces:
        tracker.feed(piece)
    return tracker


def read_by(tracker: StateTracker) -> list[StateAction]:
    states = []
    speakers: tuple[Speaker, ...] = ("user", "agent")
    for speaker in speakers:
        state = EMPTY
        for field in FIELDS:
            text = tracker.values.get((speaker, field.name), "")
            state = field.put(state, sac.read_value(field, text))
        states.append(state)
    return states


@given(texts, st.randoms(use_true_random=False))
def test_any_text_in_any_pieces_is_read_as_the_parser_reads_it(text: str, random: Any) -> None:
    cuts = sorted(random.randrange(len(text) + 1) for _ in range(random.randrange(6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    tracker = followed(pieces)
    reply = sac.parse(text)
    assert read_by(tracker) == [reply.user, reply.agent]
    assert tracker.position == followed(list(text)).position


@given(replies)
def test_positions_are_in_the_values_and_never_in_the_utterance(reply: StateActionReply) -> None:
    """Fed letter by letter, each value is seen whole when its last letter was read."""
    try:
        text = sac.render(reply)
    except StateFormatError:
        return
    tracker, seen = StateTracker(), set()
    states = len(text) - len(reply.utterance)
    for index, character in enumerate(text):
        tracker.feed(character)
        assert index < states - 2 or (tracker.done and tracker.position is None)
        if position := tracker.position:
            seen.add((position.speaker, position.field, position.item.strip()))
    for speaker, state in (("user", reply.user), ("agent", reply.agent)):
        scalars = ("motivation", state.motivation or "null"), ("emotion", state.emotion or "null")
        topics = [("topic", topic) for topic in state.topics]
        assert {(speaker, field, value) for field, value in (*scalars, *topics)} <= seen


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("{u_motivation", None),
        ("{u_motivation:", Position("user", "motivation", "u", "")),
        ("{user_motivation: com", Position("user", "motivation", "user", " com")),
        # A comma may be the value's or its end.
        ("{u_emotion: joy, u_to", Position("user", "emotion", "u", " joy, u_to")),
        ("{u_emotion: {a}, b", Position("user", "emotion", "u", " {a}, b")),
        ("{u_emotion: joy} ", None),
        ("{u_emotion: joy} {assistant_topic: [a", Position("agent", "topic", "assistant", " [a")),
        ("{agent_topic: [a, b", Position("agent", "topic", "agent", " [a, b")),
        # Not the start of a reply, the wrong group, or past the states.
        ("Hi {a_emotion: ", None),
        ("{smile} {a_emotion: ", None),
        ("{u_emotion: joy} {u_emotion: ", None),
        ("{a_emotion: joy} {u_emotion: ", None),
        ("{u_emotion: joy} Hi {a_emotion: ", None),
        ("{u_emotion: a} {a_emotion: b} {a_emotion: ", None),
    ],
)
def test_where_a_text_ends(text: str, expected: Position | None) -> None:
    assert followed([text]).position == expected


@pytest.mark.parametrize(
    ("value", "item", "earlier", "expected"),
    [
        ("", "", (), False),
        (" ", " ", (), False),
        (" [", "", (), True),
        (" [cats", "cats", (), True),
        (" [cats, do", " do", ("cats",), True),
        (" [cats, dogs]", " dogs]", ("cats",), True),
        (" [cats], ", " ", ("cats]",), False),
        (" cats", " cats", (), False),
    ],
)
def test_topics(value: str, item: str, earlier: tuple[str, ...], expected: bool) -> None:
    position = Position("agent", "topic", "a", value)
    assert (position.item, position.earlier, position.expected) == (item, earlier, expected)
