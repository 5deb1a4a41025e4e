"""State-Action Chain text: what is read, what is refused, and that nothing is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_core.errors import SageError, StateFormatError
from sage_core.sac import (
    EMPTY,
    StateAction,
    StateActionReply,
    is_well_formed,
    parse,
    render,
    render_state,
    utterance_of,
)

# The line that the paper's published checkpoint shows as its output format.
PUBLISHED = (
    "{u_motivation: complaint, u_emotion: null, u_topic: [zombies, homes]} "
    "{a_motivation: suggestion, a_emotion: playful, a_topic: [fences]} "
    "Have you tried a taller fence?"
)
PUBLISHED_REPLY = StateActionReply(
    StateAction("complaint", None, ("zombies", "homes")),
    StateAction("suggestion", "playful", ("fences",)),
    "Have you tried a taller fence?",
)

# Text that looks like the format, so that the examples reach the corners of the scanner.
fragments = st.sampled_from(
    [
        "{", "}", "{}", "{}}", "[", "]", "[]", ",", ", ", ":", " ", "\n", "\t", "null", "joy",
        "u_motivation: x", "a_motivation: x", "u_emotion:", "a_topic: [b]", "user_motivation: y",
        "assistant_topic:", ", u_emotion: z", "{u_motivation: x}", "{a_emotion: null}",
        "{u_motivation: complaint, u_emotion: null, u_topic: [zombies]}",
        "{a_motivation: , a_emotion: joy, a_topic: [a, b]}", "{not a group}", "{{u_emotion: x}}",
    ]
)  # fmt: skip
texts = st.one_of(st.text(), st.lists(fragments, max_size=8).map("".join))
values = st.one_of(st.none(), st.text(max_size=8), st.lists(fragments, max_size=3).map("".join))
states = st.builds(
    StateAction, values, values, st.lists(values.filter(lambda v: v is not None)).map(tuple)
)
plain = st.text(st.characters(categories=["L", "N"]), min_size=1).filter(lambda v: v != "null")
plain_states = st.builds(
    StateAction, st.none() | plain, st.none() | plain, st.lists(plain).map(tuple)
)


@given(st.builds(StateActionReply, states, states, texts))
def test_what_render_accepts_is_read_back(reply: StateActionReply) -> None:
    try:
        text = render(reply)
    except StateFormatError:
        return
    assert parse(text) == reply


@given(st.builds(StateActionReply, plain_states, plain_states, texts))
def test_plain_states_are_never_refused_whatever_the_utterance(reply: StateActionReply) -> None:
    assert parse(render(reply)) == reply


@given(texts)
def test_parse_reads_any_text_and_keeps_its_end(text: str) -> None:
    reply = parse(text)
    assert text.endswith(reply.utterance)
    if reply.user == reply.agent == EMPTY and not text.lstrip().startswith("{"):
        assert reply.utterance == text


@given(states)
def test_both_roles_refuse_alike_but_for_their_own_keys(state: StateAction) -> None:
    """A group that can be written is read as exactly this state and leaves no rest."""
    for prefix in ("u", "a"):
        try:
            group = render_state(state, prefix)
        except StateFormatError:
            continue
        reply = parse(group)
        assert (reply.user if prefix == "u" else reply.agent) == state
        assert reply.utterance == ""


def test_the_published_line_is_read_and_written_as_it_stands() -> None:
    assert parse(PUBLISHED) == PUBLISHED_REPLY
    assert render(PUBLISHED_REPLY) == PUBLISHED


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Long keys, as the paper's text writes them.
        (
            "{user_motivation: vent, user_emotion: sad, user_topic: [rain]} "
            "{assistant_motivation: comfort, assistant_emotion: calm, assistant_topic: [tea, sun]} "
            "There, there.",
            StateActionReply(
                StateAction("vent", "sad", ("rain",)),
                StateAction("comfort", "calm", ("tea", "sun")),
                "There, there.",
            ),
        ),
        # Missing keys, and one group only.
        ("{u_emotion: sad} Oh.", StateActionReply(StateAction(None, "sad", ()), EMPTY, "Oh.")),
        (
            "{a_topic: [tea]} Oh.",
            StateActionReply(EMPTY, StateAction(None, None, ("tea",)), "Oh."),
        ),
        # null and empty values are no values; a null topic is none either.
        (
            "{u_motivation: null, u_emotion: , u_topic: []} {a_emotion: x, a_topic: [null, b]} y",
            StateActionReply(EMPTY, StateAction(None, "x", ("b",)), "y"),
        ),
        # A value may hold balanced braces and commas.
        (
            "{u_motivation: {odd}, really, u_emotion: joy} hi",
            StateActionReply(StateAction("{odd}, really", "joy", ()), EMPTY, "hi"),
        ),
        # Of a key given twice, the first one counts.
        (
            "{u_emotion: joy, user_emotion: fear} hi",
            StateActionReply(StateAction(None, "joy", ()), EMPTY, "hi"),
        ),
        # Only the first space after the groups belongs to the format.
        ("{u_emotion: joy}  hi\n", StateActionReply(StateAction(None, "joy", ()), EMPTY, " hi\n")),
    ],
)
def test_other_spellings_are_read(text: str, expected: StateActionReply) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Hello {you}",
        "{",
        "{u_motivation: never closed",
        "{u_motivation: {nested, never closed} hello",
        "{smile} hi",
        "{{u_motivation: x}} hi",
        "{x, u_motivation: x} hi",
        "u_motivation: x",
        "}{u_motivation: x} hi",
    ],
)
def test_braces_that_are_no_group_belong_to_the_utterance(text: str) -> None:
    assert parse(text) == StateActionReply(EMPTY, EMPTY, text)


def test_a_second_group_of_a_role_and_the_wrong_order_are_utterance() -> None:
    """The user's group cannot follow the agent's, and each role has one group at most."""
    agent_first = "{a_emotion: joy} {u_emotion: sad} hi"
    assert parse(agent_first) == StateActionReply(
        EMPTY, StateAction(None, "joy", ()), "{u_emotion: sad} hi"
    )
    twice = "{u_emotion: joy} {u_emotion: sad} hi"
    assert utterance_of(twice) == "{u_emotion: sad} hi"


def with_motivation(value: str) -> StateAction:
    return StateAction(value, None, ())


def with_topic(value: str) -> StateAction:
    return StateAction(None, None, (value,))


@pytest.mark.parametrize(
    "user",
    [
        with_motivation("null"),
        with_motivation(""),
        with_motivation(" joy"),
        with_motivation("joy\n"),
        with_motivation("{"),
        with_motivation("}"),
        with_motivation("}{"),
        with_motivation("x, u_emotion: y"),
        with_motivation("x, user_topics : [y]"),
        StateAction(None, "null", ()),
        StateAction(None, "joy, u_topic: [x]", ()),
        with_topic("null"),
        with_topic(""),
        with_topic("a, b"),
        with_topic("a "),
        with_topic("{a"),
        # Harmless as the first topic, but behind a comma it opens a field.
        StateAction(None, None, ("a", "u_emotion: y")),
    ],
)
def test_render_refuses_what_would_be_read_otherwise(user: StateAction) -> None:
    with pytest.raises(StateFormatError) as caught:
        render(StateActionReply(user, EMPTY, "hi"))
    assert isinstance(caught.value, SageError)
    assert repr(user) in str(caught.value)


@pytest.mark.parametrize(
    "user",
    [
        with_motivation("x, y"),
        with_motivation("{x}"),
        with_motivation("[x"),
        with_motivation("nullify"),
        with_motivation("x, a_emotion: y"),  # the other role's key opens nothing in this group
        with_motivation("u_emotion: y"),  # a key needs a comma before it
        StateAction("a", "b", ("[c", "d]", "e: f")),
    ],
)
def test_render_refuses_nothing_else(user: StateAction) -> None:
    reply = StateActionReply(user, EMPTY, "hi")
    assert parse(render(reply)) == reply


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PUBLISHED, True),
        ("{u_motivation: a, u_emotion: b, u_topic: []} {a_motivation: null, a_emotion: c, "
         "a_topic: [d]} hi", True),
        ("hi", False),
        ("", False),
        # No utterance.
        ("{u_motivation: a, u_emotion: b, u_topic: []} {a_motivation: a, a_emotion: c, "
         "a_topic: []} ", False),
        # One group only.
        ("{u_motivation: a, u_emotion: b, u_topic: []} hi", False),
        # A key is missing, out of order, or there twice.
        ("{u_motivation: a, u_topic: []} {a_motivation: a, a_emotion: c, a_topic: []} hi", False),
        ("{u_emotion: b, u_motivation: a, u_topic: []} {a_motivation: a, a_emotion: c, "
         "a_topic: []} hi", False),
        ("{u_motivation: a, u_emotion: b, u_topic: []} {a_motivation: a, a_emotion: c, "
         "a_emotion: c, a_topic: []} hi", False),
        # Never closed.
        ("{u_motivation: a, u_emotion: b, u_topic: []} {a_motivation: a, a_emotion: c", False),
    ],
)  # fmt: skip
def test_well_formed(text: str, expected: bool) -> None:
    assert is_well_formed(text) is expected


@given(st.builds(StateActionReply, plain_states, plain_states, texts.filter(str.strip)))
def test_rendered_replies_are_well_formed(reply: StateActionReply) -> None:
    assert is_well_formed(render(reply))
