"""What the trainers read: made from trajectories, cut by whole turns."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers_of_families import MISTRAL_1

from sage_core.config.conversation import ConversationConfig
from sage_core.errors import DataError
from sage_core.sac import utterance_of
from sage_core.schema import (
    Candidate,
    Message,
    PreferencePair,
    TrainingDialogue,
    Trajectory,
    TrajectoryTurn,
    with_roles,
)
from sage_core.training.data import (
    fitting_dialogues,
    fitting_pairs,
    preference_pairs,
    selected_dialogues,
)
from sage_core.training.tokens import Encoder

PROFILE = ConversationConfig().agent
HEAD = (
    Message("user", PROFILE.ask),
    Message("assistant", f"{PROFILE.states} {PROFILE.consent}"),
)
CALM, GLAD = "{a_emotion: calm} ", "{a_emotion: glad} "


def agent(chosen: int, *texts: str) -> TrajectoryTurn:
    candidates = tuple(
        Candidate(text, float(place == chosen), place == chosen) for place, text in enumerate(texts)
    )
    return TrajectoryTurn("assistant", texts[chosen], candidates)


def user(text: str) -> TrajectoryTurn:
    return TrajectoryTurn("user", text, ())


def trajectory(name: str, *turns: TrajectoryTurn) -> Trajectory:
    return Trajectory(name, name, turns[0].content if turns else "", "sad", turns)


def words(messages: Sequence[Message]) -> int:
    """The length that these tests count in."""
    return sum(len(message.content.split()) for message in messages)


def test_selected_dialogues_end_on_the_agent() -> None:
    even = trajectory("x", user("a"), agent(0, CALM + "b"))
    odd = trajectory("y", *even.turns, user("c"))
    alone = trajectory("z", user("a"))
    expected = TrainingDialogue(
        (*HEAD, Message("user", "a"), Message("assistant", CALM + "b")),
        ("none", "none", "none", "whole"),
    )
    assert selected_dialogues([even, odd, alone], PROFILE) == [expected, expected]


def test_pairs_of_each_turn_with_a_choice() -> None:
    turns = (
        user("a"),
        agent(1, CALM + "one", GLAD + "two", GLAD + "two"),
        user("b"),
        agent(0, CALM + "three", GLAD + "three"),  # the utterances are alike: no choice
        user("c"),
        agent(0, "alone"),
        user("d"),
        agent(2, "x", "x", "y"),
    )
    first, second = preference_pairs([trajectory("t", *turns)], PROFILE, 0)
    prompt = (*HEAD, Message("user", "a"))
    assert first == PreferencePair(prompt, GLAD + "two", CALM + "one", pinned=3)
    # The prompt is what the agent saw: its profile, all that was said before, its own states.
    assert second.prompt == (*HEAD, *(Message(turn.role, turn.content) for turn in turns[:7]))
    assert (second.chosen, second.rejected) == ("y", "x")


def test_a_turn_without_a_chosen_candidate_gives_no_pair() -> None:
    turn = TrajectoryTurn("assistant", "a", (Candidate("a", 0, False), Candidate("b", 0, False)))
    assert preference_pairs([trajectory("t", user("hi"), turn)], PROFILE, 0) == []


def test_the_end_of_a_cut_reply_is_not_trained() -> None:
    whole, cut = agent(0, "a", "b"), replace(agent(0, "c"), cut=True)
    (dialogue,) = selected_dialogues([trajectory("t", user("x"), whole, user("y"), cut)], PROFILE)
    assert dialogue.loss == ("none", "none", "none", "whole", "none", "open")


def test_a_cut_candidate_is_rejected_only_where_no_other_is_there() -> None:
    def turn(*cut: bool) -> TrajectoryTurn:
        spoken = agent(0, "a", "b", "c")
        candidates = tuple(
            replace(each, cut=was) for each, was in zip(spoken.candidates, cut, strict=True)
        )
        return replace(spoken, candidates=candidates)

    drawn = {
        preference_pairs([trajectory("t", user("hi"), turn(False, True, False))], PROFILE, seed)[0]
        for seed in range(20)
    }
    assert {(pair.rejected, pair.rejected_cut) for pair in drawn} == {("c", False)}
    (pair,) = preference_pairs([trajectory("t", user("hi"), turn(True, True, True))], PROFILE, 0)
    assert (pair.chosen_cut, pair.rejected_cut) == (True, True)


candidate_texts = st.lists(
    st.builds(
        str.__add__,
        st.sampled_from(["", CALM, GLAD, "{u_emotion: sad} "]),
        st.sampled_from(["yes", "no", "maybe"]),
    ),
    min_size=1,
    max_size=5,
)
agent_turns = candidate_texts.flatmap(
    lambda texts: st.integers(0, len(texts) - 1).map(lambda chosen: agent(chosen, *texts))
)
trajectories = st.lists(
    st.lists(agent_turns, max_size=3).map(
        lambda turns: trajectory("t", *(t for turn in turns for t in (user("hi"), turn)))
    ),
    max_size=4,
)


@given(trajectories, st.integers(0, 3))
def test_chosen_and_rejected_say_different_things(found: list[Trajectory], seed: int) -> None:
    pairs = preference_pairs(found, PROFILE, seed)
    assert pairs == preference_pairs(found, PROFILE, seed)
    for pair in pairs:
        assert utterance_of(pair.chosen) != utterance_of(pair.rejected)
        assert pair.prompt[-1].role == "user"
    choices = [
        len({utterance_of(candidate.text) for candidate in turn.candidates}) > 1
        for t in found
        for turn in t.turns
    ]
    assert len(pairs) == sum(choices)


def test_the_rejected_one_is_drawn_by_seed_among_all_others() -> None:
    found = [trajectory("t", user("hi"), agent(0, "a", "b", "c", "d"))]
    drawn = {preference_pairs(found, PROFILE, seed)[0].rejected for seed in range(40)}
    assert drawn == {"b", "c", "d"}


def test_the_rejected_one_is_the_lowest_voted() -> None:
    votes = {"a": 3.0, "b": 1.0, "c": 0.5, "d": 0.5, CALM: 0.0}
    turn = TrajectoryTurn(
        "assistant", "a", tuple(Candidate(text, n, text == "a") for text, n in votes.items())
    )
    found = [trajectory("t", user("hi"), turn)]
    drawn = {preference_pairs(found, PROFILE, seed, "lowest")[0].rejected for seed in range(40)}
    assert drawn == {"c", "d"}  # what is empty is no candidate; a tie is drawn


def training(*utterances: str) -> TrainingDialogue:
    return TrainingDialogue(with_roles(utterances))


@pytest.mark.parametrize(
    ("max_length", "turns"), [(6, 4), (5, 2), (4, 2), (3, 2)]
)  # the first exchange has 3 words, both have 6
def test_dialogues_lose_their_last_exchanges(max_length: int, turns: int) -> None:
    given = training("one", "two three", "four", "five six")
    (cut,) = fitting_dialogues([given], max_length, words).rows
    assert cut.messages == given.messages[:turns]


def test_dialogues_whose_first_exchange_is_too_long_are_left_out() -> None:
    long, short = training("one two", "three four"), training("one", "two")
    usable = fitting_dialogues([long, short], 3, words)
    assert (usable.rows, usable.places, usable.left_out) == ([short], [1], {"too_long": 1})
    with pytest.raises(DataError, match=r"of 1 dialogues 1 are longer than max_length \(of 3 tok"):
        fitting_dialogues([long], 3, words)


def test_dialogues_without_a_reply_and_with_empty_ones() -> None:
    silent, empty = training("one"), training("one", CALM + "  ")
    later = training("one", "two", "three", CALM, "four", "five")
    usable = fitting_dialogues([silent, empty, later], 9, words)
    assert usable.rows == [training("one", "two")]
    assert (usable.places, usable.left_out) == ([2], {"no_reply": 1, "empty_reply": 1})
    with pytest.raises(DataError, match="1 have an empty reply, 1 have no reply of the agent"):
        fitting_dialogues([silent, empty], 9, words)
    with pytest.raises(DataError, match="of 0 dialogues none was given"):
        fitting_dialogues([], 9, words)


def test_a_dialogue_may_open_with_instructions_and_end_with_the_user() -> None:
    system = Message("system", "be kind")
    given = TrainingDialogue((system, *with_roles(["one", "two", "three", "four", "five"])))
    assert fitting_dialogues([given], 9, words).rows == [TrainingDialogue(given.messages[:5])]
    assert fitting_dialogues([given], 4, words).rows == [TrainingDialogue(given.messages[:3])]
    with pytest.raises(DataError, match="nothing is left to train on"):
        fitting_dialogues([given], 3, words)


def test_pairs_keep_the_profile_and_the_opening_turn() -> None:
    """10 words with the reply: the exchange behind the opening turn goes, and nothing more can."""
    prompt = with_roles(["profile", "yes", "opening", "b c", "d", "e", "f"])
    pair = PreferencePair(prompt, "g h", "i", pinned=3)
    (cut,) = fitting_pairs([pair], 7, words).rows
    assert [message.content for message in cut.prompt] == ["profile", "yes", "opening", "e", "f"]
    with pytest.raises(DataError, match="longer than max_length"):
        fitting_pairs([pair], 6, words)


PAIR = PreferencePair(with_roles(["a", "b c", "d"]), "e f", "g")


@pytest.mark.parametrize(
    ("max_length", "prompt"),
    [(6, ("a", "b c", "d")), (5, ("d",)), (3, ("d",))],  # 4 of the prompt, 2 of the longer reply
)
def test_pairs_lose_the_oldest_exchanges(max_length: int, prompt: tuple[str, ...]) -> None:
    (cut,) = fitting_pairs([PAIR], max_length, words).rows
    assert tuple(message.content for message in cut.prompt) == prompt
    assert cut.prompt[0].role == "user"
    assert (cut.chosen, cut.rejected) == (PAIR.chosen, PAIR.rejected)


def test_the_longer_reply_decides_whether_a_pair_fits() -> None:
    turned = PreferencePair(PAIR.prompt, PAIR.rejected, PAIR.chosen)
    for pair in (PAIR, turned):
        with pytest.raises(
            DataError, match=r"of 1 preference pairs 1 are longer than max_l.* \(of 2 "
        ):
            fitting_pairs([pair], 2, words)


def test_pairs_that_prefer_nothing_are_left_out() -> None:
    equal = PreferencePair(PAIR.prompt, "e f", "e f")
    empty = PreferencePair(PAIR.prompt, "e f", CALM)
    usable = fitting_pairs([equal, empty, PAIR], 6, words)
    assert (usable.rows, usable.places) == ([PAIR], [2])
    assert usable.left_out == {"equal_replies": 1, "empty_reply": 1}
    with pytest.raises(DataError, match="1 have an empty reply, 1 have the same reply as chosen"):
        fitting_pairs([equal, empty], 6, words)


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b c", "d e f"]), min_size=1, max_size=7).map(
            lambda texts: texts if len(texts) % 2 else texts[1:] or ["a", "b"]
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 12),
)
def test_what_is_left_fits_and_is_cut_by_exchanges(prompts: list[list[str]], limit: int) -> None:
    pairs = [PreferencePair(with_roles(texts), "x y", "z") for texts in prompts]
    try:
        fitting = fitting_pairs(pairs, limit, words).rows
    except DataError:
        fitting = []
    for pair in fitting:
        assert words((*pair.prompt, Message("assistant", "x y"))) <= limit
        assert any(
            pair.prompt == given.prompt[cut:]
            for given in pairs
            for cut in range(0, len(given.prompt), 2)
        )
    # None is left out that would have fitted with its last turn alone.
    last = [words(pair.prompt[-1:]) + 2 <= limit for pair in pairs if len(pair.prompt) % 2]
    assert len(fitting) >= sum(last)


def test_dialogues_that_the_chat_template_refuses_are_left_out(mistral_tokenizer: Any) -> None:
    """Instruction data that opens with the assistant, for a template that wants the user first."""
    tokenizer = copy.copy(mistral_tokenizer)
    tokenizer.chat_template = MISTRAL_1
    length = Encoder(tokenizer).length
    opened = (Message("assistant", "Hello."), *with_roles(["hi", "How are you?"]))
    dialogues = [TrainingDialogue(opened), TrainingDialogue(with_roles(["hi", "Hello."]))]
    usable = fitting_dialogues(dialogues, 100, length)
    assert (usable.places, usable.left_out) == ([1], {"refused": 1})
    with pytest.raises(DataError, match="1 are refused by the model's chat template"):
        fitting_dialogues(dialogues[:1], 100, length)
