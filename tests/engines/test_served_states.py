"""What a server's plug-in does to the logits of replies that open with states."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from sage_core.engines.plugin_arguments import Asked
from sage_core.engines.served_states import ServedReply, ServedStates, change
from sage_core.engines.steerer import Vocabulary
from sage_core.engines.steering import Ban, Boost, Force, Steering
from sage_core.errors import ConfigError

TEXTS = [b"{", b"}", b"}}", b"a", b"b", b"c", b"d", b"e"]
LETTERS = Vocabulary(TEXTS, ())
LOGITS = torch.tensor([[3.0, 3.0, 3.0, -3.0, 3.0, 3.0, -3.0, 3.0]])
STEERING = Steering(
    (Boost("agent", "motivation", "humor", 1.5), Boost("user", "topic", "cats", -2.0)),
    (Force("agent", "emotion", ("playful, really",)),),
    (Ban("agent", "topic", "dogs"),),
)


def reply(penalty: float, open_groups: int, prompt: list[int], drawn: list[int]) -> ServedReply:
    made = ServedReply(Asked(penalty, open_groups), prompt, LETTERS)
    made.feed(drawn)
    return made


def changed(made: ServedReply) -> list[float]:
    logits = LOGITS.clone()
    change(logits, {0: made})
    return [float(score) for score in logits[0]]


def test_the_penalty_starts_where_the_states_end() -> None:
    """Penalty 2: a seen token's logit 3 becomes 1.5, -3 becomes -6; others stay."""
    made = reply(2.0, 2, [5], [])
    assert changed(made) == LOGITS[0].tolist()
    for tokens in ([0, 3, 1], [0, 4]):  # { a }, { b
        made.feed(tokens)
        assert changed(made) == LOGITS[0].tolist()
    made.feed([1])
    assert changed(made) == [1.5, 1.5, 3.0, -6.0, 1.5, 1.5, -3.0, 3.0]
    made.feed([0, 2])  # groups that are opened later are text
    assert changed(made) == [1.5, 1.5, 1.5, -6.0, 1.5, 1.5, -3.0, 3.0]


def test_a_token_may_close_both_groups() -> None:
    assert changed(reply(2.0, 2, [], [2]))[2] == 1.5


def test_only_the_rows_that_ask_for_it_change() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 8)
    before = logits.clone()
    change(
        logits,
        {
            1: reply(1.5, 0, [1, 2], [3]),
            2: reply(1.5, 1, [1, 2], [3]),
            3: reply(3.0, 0, [6], []),
        },
    )
    assert torch.equal(logits[[0, 2]], before[[0, 2]])
    for row, seen, penalty in ((1, [1, 2, 3], 1.5), (3, [6], 3.0)):
        for token in range(8):
            score = float(before[row, token])
            expected = score / penalty if score > 0 else score * penalty
            assert float(logits[row, token]) == torch.tensor(expected if token in seen else score)


def test_a_token_that_a_grammar_forbids_stays_forbidden() -> None:
    logits = torch.full((1, 8), float("-inf"))
    change(logits, {0: reply(1.1, 0, [1], [])})
    assert bool(torch.isinf(logits).all())


@pytest.mark.parametrize(
    "asked",
    [
        Asked(),
        Asked(1.1, 2),
        Asked(steering=STEERING, grammar=True, prefix="{u_motivation: "),
        Asked(1.3, 1, Steering(bans=(Ban("user", "emotion", "wütend"),))),
    ],
)
def test_what_is_asked_survives_the_wire_as_flat_values(asked: Asked) -> None:
    written = asked.written()
    assert all(isinstance(value, str | int | float) for value in written.values())
    assert bool(written) == bool(asked)
    assert Asked.read({"another": 1, **written}) == asked


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sage_penalty": 0.5}, "sage_penalty = 0.5 is not a number from 1"),
        ({"sage_penalty": "high"}, "not a number"),
        ({"sage_steering": "{"}, "not a JSON object"),
        ({"sage_steering": "[]"}, "not a JSON object"),
        ({"sage_steering": '{"bosst": []}'}, "not a JSON object"),
        ({"sage_steering": '{"boost": ["emotion=joy:inf"]}'}, "finite"),
        ({"sage_steering": '{"ban": ["mood=joy"]}'}, "not a field of a state"),
    ],
)
def test_wrong_arguments_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Asked.read(values)


@pytest.fixture(scope="module")
def states(chatml_tokenizer: Any) -> ServedStates:
    return ServedStates(chatml_tokenizer, len(chatml_tokenizer))


def test_steering_is_that_of_the_engine_in_process(
    states: ServedStates, chatml_tokenizer: Any
) -> None:
    """Behind the prefix the boosted value's first token is raised, in its own row only."""
    asked = Asked(
        steering=Steering((Boost("agent", "motivation", "humor", 4.0),)),
        prefix="{u_motivation: null, u_emotion: null, u_topic: []}",
    )
    made = states.reply(asked, [1, 2, 3])
    encode = chatml_tokenizer.encode
    made.feed(encode(" {a_motivation:", add_special_tokens=False))
    logits = torch.zeros(2, len(chatml_tokenizer))
    change(logits, {1: made})
    assert not logits[0].any()
    raised = logits[1].nonzero().flatten().tolist()
    assert encode(" humor", add_special_tokens=False)[0] in raised
    assert set(logits[1][raised].tolist()) == {4.0}
    made.feed(encode(" humor", add_special_tokens=False))
    made.feed(encode(", a_emotion: null, a_topic: []} Ha", add_special_tokens=False))
    logits.zero_()
    change(logits, {1: made})
    assert not logits.any()


def test_a_value_without_tokens_is_refused(states: ServedStates) -> None:
    asked = Asked(steering=Steering(bans=(Ban("agent", "emotion", "a<|im_end|>"),)))
    with pytest.raises(ConfigError, match="special token"):
        states.reply(asked, [])
    assert states.reply(replace(asked, steering=Steering()), []).steerer is None
