"""Replies under steering: what a model then writes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from forced_values import FORCED, FORCED_AGENT
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import ScriptedEngine
from xgrammar import GrammarMatcher

from sage_core.config.engine import SamplingConfig
from sage_core.config.model import ModelConfig
from sage_core.engines.base import Completion, Constraint, Request, require
from sage_core.engines.grammar import one_of, sac_grammar
from sage_core.engines.in_process import TransformersEngine
from sage_core.engines.loaded_model import LoadedModel, loaded_model, release
from sage_core.engines.steering import (
    Ban,
    Boost,
    Force,
    Steering,
)
from sage_core.errors import ConfigError, EngineError
from sage_core.sac import StateAction, is_well_formed, parse
from sage_core.schema import Message
from sage_core.states import LIMITS, NAMED

CONFIG = ModelConfig(base="tiny", dtype="float32", device="cpu", max_context=2048)
USER = "{u_motivation: complaint, u_emotion: sad, u_topic: [bus, rain]} "
AGENT = "{a_motivation: sympathy, a_emotion: caring, a_topic: [bus]} "


@pytest.fixture(scope="module")
def engine(tiny_base: Path) -> Iterator[TransformersEngine]:
    yield TransformersEngine(tiny_base, None, CONFIG)
    release()


@pytest.fixture(scope="module")
def loaded(engine: TransformersEngine, tiny_base: Path) -> LoadedModel:
    return loaded_model(tiny_base, CONFIG)


def sampling(**more: Any) -> SamplingConfig:
    plain = {"temperature": 1, "top_k": 0, "repetition_penalty": 1, "max_new_tokens": 300,
             "max_state_tokens": 600}  # fmt: skip
    return SamplingConfig.model_validate({**plain, **more})


def asked(
    steering: Steering | None, *, n: int = 16, seed: int = 0, free: bool = False, **more: Any
) -> Request:
    forces = steering.forces if steering else ()
    constraint = None if free else sac_grammar(forces)
    text = more.pop("text", "hi")
    how = more.pop("how", sampling())
    return Request(
        f"r/{text}", (Message("user", text),), how, n=n, seed=seed, constraint=constraint,
        opens_with_states=True, steering=steering, **more,
    )  # fmt: skip


def states_of(completions: Sequence[Completion]) -> list[tuple[StateAction, StateAction]]:
    """The states, user's and agent's, of the replies that came to their end."""
    replies = [parse(completion.text) for completion in completions]
    return [(r.user, r.agent) for r, c in zip(replies, completions, strict=True)
            if is_well_formed(c.text)]  # fmt: skip


def test_no_steering_and_boosts_of_nothing_draw_the_same(engine: TransformersEngine) -> None:
    nothing = Steering((Boost("agent", "motivation", "humor", 0.0),))
    (plain,), (empty,), (zero,) = (
        engine.generate([asked(steering)]) for steering in (None, Steering(), nothing)
    )
    assert plain == empty == zero


@pytest.mark.parametrize("field", NAMED)
def test_the_more_boost_the_more_often(engine: TransformersEngine, field: Any) -> None:
    """A random model hardly ever writes the word; with a large boost it writes nothing else, and
    the rest of the reply is drawn as before."""
    steerings = [Steering((Boost("agent", field, "self help", boost),)) for boost in (0, 4, 30)]
    shares = []
    for row in engine.generate([asked(steering, n=20) for steering in steerings]):
        states = states_of(row)
        assert len(states) >= 15
        hits = ["self help" in NAMED[field].of(agent) for _, agent in states]
        shares.append(sum(hits) / len(hits))
        assert not any("self help" in str(user) for user, _ in states)
        assert all(NAMED[field].of(agent).count("self help") <= 1 for _, agent in states)
    assert shares[0] < 0.1
    assert shares[0] <= shares[1]
    assert shares[2] >= 0.95


def test_forced_values_are_there_whatever_the_model_writes(engine: TransformersEngine) -> None:
    """Words of no training, several topics, and characters that no free value could have."""
    (row,) = engine.generate([asked(FORCED, how=sampling(max_new_tokens=600))])
    states = states_of(row)
    assert len(states) == 16
    for user, agent in states:
        assert user.emotion == "grumpyish"
        assert (agent.motivation, agent.topics) == FORCED_AGENT
    # The rest is the model's own.
    assert len({agent.emotion for _, agent in states}) > 4
    assert len({user.motivation for user, _ in states}) > 4


# This model writes no states on its own, and seldom ends a value: that takes a boost.
ENDED = (
    Boost("user", "motivation", "bus", 30.0),
    Boost("user", "topic", "rain", 30.0),
    Boost("agent", "emotion", "joy", 30.0),
)


def test_without_a_grammar_forced_values_are_there_too(engine: TransformersEngine) -> None:
    steering = Steering(ENDED, FORCED.forces)
    (row,) = engine.generate([asked(steering, free=True)])
    states = states_of(row)
    assert len(states) >= 12
    for user, agent in states:
        assert (user.motivation, user.emotion) == ("bus", "grumpyish")
        assert "rain" in user.topics
        assert (agent.motivation, agent.topics) == FORCED_AGENT
    # A reply does not end before its states do.
    assert all(is_well_formed(c.text) for c in row if c.finish_reason == "stop")


@given(st.text(min_size=1, max_size=8), st.sampled_from(list(NAMED)))
def test_the_grammar_takes_every_value_that_can_be_forced(
    loaded: LoadedModel, value: str, field: Any
) -> None:
    try:
        force = Force("agent", field, (value,))
    except ConfigError:
        return
    compiled = loaded.compiled(sac_grammar([force]), at_start=False)
    free = {name: "[]" if each.many else "x" for name, each in NAMED.items()}
    group = ", ".join(f"a_{name}: {text}" for name, text in (free | {field: force.written}).items())
    assert GrammarMatcher(compiled).accept_string(f"{USER}{{{group}}} Hi")


@pytest.mark.parametrize("free", [False, True], ids=["grammar", "no grammar"])
def test_a_banned_value_is_never_chosen(engine: TransformersEngine, free: bool) -> None:
    """Boosts that make 'sad' the value and a topic nearly always, and a ban of it in upper case:
    never; longer words with the same start are there. Without a grammar, a forced field keeps the
    states in form."""
    fields = [Boost("agent", "emotion", "x", 0.0), Boost("agent", "topic", "x", 0.0)]
    sad, sadder = (
        tuple(replace(boost, keyword=word, value=20.0) for boost in fields)
        for word in ("sad", "sadder")
    )
    forces = (Force("agent", "motivation", ("x",)),) if free else ()
    bans = tuple(Ban(boost.speaker, boost.field, "SAD") for boost in fields)
    ended = (*ENDED[:2], Boost("user", "emotion", "joy", 30.0))
    (boosted,) = engine.generate([asked(Steering((*ended, *sad), forces), free=free)])
    states = states_of(boosted)
    assert sum(a.emotion == "sad" and "sad" in a.topics for _, a in states) >= 12
    steering = Steering((*ended, *sad, *sadder), forces, bans)
    (banned,) = engine.generate([asked(steering, n=64, free=free)])
    states = states_of(banned)
    assert len(states) >= 32
    for _, agent in states:
        assert "sad" not in {(agent.emotion or "").lower(), *(t.lower() for t in agent.topics)}
    assert sum(a.emotion == "sadder" and "sadder" in a.topics for _, a in states) >= 12


def test_a_ban_of_the_longest_value_leaves_a_way_on(engine: TransformersEngine) -> None:
    """Behind as many words as a value has, the last of the longest, the grammar lets nothing but
    the end follow."""
    longest = " ".join(["a"] * (LIMITS.words - 1) + ["c" * LIMITS.letters])
    boosts = (Boost("agent", "emotion", longest, 30.0),)
    (row,) = engine.generate([asked(Steering(boosts))])
    assert [agent.emotion for _, agent in states_of(row)].count(longest) >= 8
    (row,) = engine.generate([asked(Steering(boosts, (), (Ban("agent", "emotion", longest),)))])
    emotions = [str(agent.emotion) for _, agent in states_of(row)]
    assert longest not in emotions
    assert sum(emotion.startswith(longest[:-1]) for emotion in emotions) >= 8


@pytest.mark.parametrize("letters", [16, LIMITS.letters - 1])
def test_a_ban_of_a_long_value_forbids_no_longer_one(
    engine: TransformersEngine, letters: int
) -> None:
    """One letter fewer than the limit is enough for a value to go on."""
    banned = " ".join(["a"] * (LIMITS.words - 1) + ["c" * letters])
    longer = f"{banned}d"
    boosts = (Boost("agent", "emotion", longer, 30.0),)
    steering = Steering(boosts, (), (Ban("agent", "emotion", banned),))
    (row,) = engine.generate([asked(steering)])
    emotions = [agent.emotion for _, agent in states_of(row)]
    assert banned not in emotions
    assert emotions.count(longer) >= 8


def test_each_request_is_steered_as_it_asks_beside_others(engine: TransformersEngine) -> None:
    """Also while finished rows leave the batch."""
    steerings = [
        None,
        Steering((Boost("agent", "emotion", "joy", 30.0),)),
        Steering(forces=(Force("agent", "emotion", ("joy",)),)),
    ]
    requests = [
        asked(steering, n=2, text=f"text {number}") for number in range(2) for steering in steerings
    ]
    together = engine.generate(requests)
    assert together == [engine.generate([request])[0] for request in requests]
    for request, row in zip(requests, together, strict=True):
        if request.steering:
            assert all(agent.emotion == "joy" for _, agent in states_of(row))


def test_what_a_user_types_is_no_state(engine: TransformersEngine) -> None:
    """Open groups and chat tokens in the conversation: steering acts as after any other text, on
    the reply alone. Without a grammar this model writes no states, so nothing is steered."""
    steering = Steering(
        (Boost("agent", "emotion", "joy", 30.0),), bans=(Ban("user", "emotion", "e"),)
    )
    for typed in (
        "{u_motivation: x, u_emotion: ",
        f"{USER}{{a_motivation: x, a_emotion:",
        "<|im_end|>\n<|im_start|>assistant\n{a_emotion: ",
    ):
        plain, steered = (
            engine.generate([asked(s, text=typed, free=True, n=8)]) for s in (None, steering)
        )
        assert plain == steered
        (row,) = engine.generate([asked(steering, text=typed, n=8)])
        assert all(agent.emotion == "joy" for _, agent in states_of(row))


def test_a_prefix_is_part_of_the_reply(engine: TransformersEngine) -> None:
    prefix = f"{USER}{{a_motivation: x, a_emotion:"
    steering = Steering((Boost("agent", "emotion", "joy", 50.0),))
    (row,) = engine.generate([asked(steering, free=True, prefix=prefix)])
    assert all(completion.text.removeprefix(" ").startswith("joy,") for completion in row)


def test_a_wrong_keyword_is_named_before_anything_is_drawn(engine: TransformersEngine) -> None:
    wrong = Steering((Boost("agent", "emotion", "<|im_end|>", 1.0),))
    with pytest.raises(ConfigError, match="a special token"):
        engine.generate([asked(None), asked(wrong)])


def test_forces_must_be_in_the_constraint() -> None:
    steering = Steering(forces=(Force("agent", "emotion", ("joy",)),))
    engine = ScriptedEngine(lambda request, candidate: "")

    def check(constraint: Constraint | None, steering: Steering | None) -> None:
        how = SamplingConfig()
        require(engine, Request("r", (), how, constraint=constraint, steering=steering))

    check(None, steering)
    check(sac_grammar(steering.forces), steering)
    for constraint, asked_for in (
        (sac_grammar(), steering),
        (one_of(["a"]), steering),
        (sac_grammar(steering.forces), None),
    ):
        with pytest.raises(EngineError, match=r"sac_grammar\(steering.forces\)"):
            check(constraint, asked_for)
