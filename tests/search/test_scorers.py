"""Selectors that score each reply: functions and reward models, and what they may do wrong."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conversation import SITUATIONS, Cast
from scripted_engine import ScriptedEngine

from sage_core.config.engine import SamplingConfig
from sage_core.config.model import ModelConfig
from sage_core.config.search import SearchConfig, SelectorConfig
from sage_core.engines.base import Engine, Request
from sage_core.errors import ConfigError, ContextError
from sage_core.schema import Message
from sage_core.search.checks import check_search
from sage_core.search.likelihood import Asked, log_likelihoods
from sage_core.search.selectors.chance import RandomSelector
from sage_core.search.selectors.function import load_function
from sage_core.search.selectors.relevance import RelevanceSelector
from sage_core.search.selectors.reward_model import load_reward_model
from sage_core.search.selectors.scores import ScoreSelector
from sage_core.search.selectors.selector import (
    Ballot,
    Inputs,
    Selector,
    files_of,
    reply_ballot,
    selector_of,
)
from sage_core.search.selfplay import self_play
from sage_core.search.strategies.greedy import Greedy

HISTORY = (Message("user", "My dog ran away."),)
MODULE = """
def words(utterance):
    return len(utterance.split())

def raises(utterance):
    if "bad" in utterance:
        raise LookupError("no such dog")
    return 1.0

def not_a_number(utterance):
    return float("nan") if "bad" in utterance else -1.0

def infinite(utterance):
    return float("inf")

def no_float(utterance):
    return "bad" if "bad" in utterance else 3

def turns(utterance, history):
    return float(len(history))

def optional(utterance, scale=2.0):
    return scale

def none():
    return 0.0

def many(a, b, c):
    return 0.0
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the user's, in the working directory."""
    (tmp_path / "my_scores.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("my_scores", None)
    return "my_scores"


def made_of(settings: SelectorConfig, engine: Callable[[], Engine]) -> Selector:
    return selector_of(Inputs(settings, engine, ModelConfig(device="cpu"), 0))


def selector(name: str) -> ScoreSelector:
    return ScoreSelector(load_function(f"my_scores:{name}"), independent=True)


def test_a_function_of_the_reply(module: str) -> None:
    ballots = [reply_ballot("a", HISTORY, ["one", "one two"]), reply_ballot("b", HISTORY, ["x"])]
    decisions = selector("words").decide(ballots)
    assert [decision.votes for decision in decisions] == [(1.0, 2.0), (1.0,)]
    assert selector("optional").decide(ballots)[1].votes == (2.0,)


def test_a_function_of_the_history_too_and_of_courses(module: str) -> None:
    """The replies of the course stand after 1 and 3 turns: (1 + 3) / 2."""
    course = (Message("assistant", "a"), Message("user", "b"), Message("assistant", "c"))
    ballot = Ballot("b", HISTORY, (course, course[:1]))
    (decision,) = selector("turns").decide([ballot])
    assert decision.votes == (2.0, 1.0)


@pytest.mark.parametrize(
    ("name", "note", "good"),
    [
        ("raises", "score_failed: LookupError: no such dog", 1.0),
        ("not_a_number", "score_failed: it is nan", -1.0),
        ("no_float", "score_failed: ValueError: could not convert string to float: 'bad'", 3.0),
    ],
)
def test_what_fails_is_last_and_noted(module: str, name: str, note: str, good: float) -> None:
    ballot = reply_ballot("b", HISTORY, ["bad dog", "bad cat", "fine"])
    (decision,) = selector(name).decide([ballot])
    assert decision.votes == (-math.inf, -math.inf, good)
    assert decision.notes == (note,)


def test_a_search_goes_on_where_every_score_fails(module: str) -> None:
    found = self_play(SITUATIONS, Cast().players(selector("infinite")), Greedy(2))
    for each in found:
        assert each.trajectory.ended == "turns"
        assert all(
            turn.notes == ("score_failed: it is inf",) for turn in each.trajectory.turns[1::2]
        )
        assert all(turn.candidates[0].chosen for turn in each.trajectory.turns[1::2])


def test_the_search_keeps_what_the_function_likes(module: str) -> None:
    found = self_play(SITUATIONS, Cast().players(selector("words")), Greedy(4))
    for turn in found[0].trajectory.turns[1::2]:
        (chosen,) = [candidate for candidate in turn.candidates if candidate.chosen]
        assert chosen.votes == max(candidate.votes for candidate in turn.candidates)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:f", "No module named"),
        ("my_scores:absent", "absent"),
        ("my_scores:none", "takes 0 arguments"),
        ("my_scores:many", "takes 3 arguments"),
    ],
)
def test_functions_that_cannot_be_used(module: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_search(SearchConfig(selector=SelectorConfig(function=name)))


def test_a_changed_reward_model_is_another_search(tmp_path: Path) -> None:
    config = SelectorConfig(reward_model=tmp_path)
    (tmp_path / "config.json").write_text("{}")
    before = files_of(config)
    assert before == files_of(config)
    (tmp_path / "config.json").write_text("{ }")
    assert files_of(config) != before
    assert files_of(SelectorConfig()) == files_of(SelectorConfig(random=True)) == ""


def test_chance_is_seeded_by_the_ballot() -> None:
    ballots = [reply_ballot(f"b{number}", HISTORY, ["x", "y", "z"]) for number in range(30)]
    decisions = RandomSelector(1).decide(ballots)
    assert decisions[3:4] == RandomSelector(1).decide(ballots[3:4])
    assert decisions != RandomSelector(2).decide(ballots)
    assert len({max(range(3), key=lambda at, d=d: d.votes[at]) for d in decisions}) == 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"function": "a:b", "random": True}, "function and random are both set"),
        ({"random": True, "none_is_good": True}, "cannot say that none is good"),
        ({"function": "no colon"}, "pattern"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectorConfig.model_validate(settings)


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory, chatml_tokenizer: Any) -> Path:
    return saved_classifier(tmp_path_factory.mktemp("reward"), chatml_tokenizer, outputs=1)


def saved_classifier(folder: Path, tokenizer: Any, *, outputs: int) -> Path:
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        num_labels=outputs,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_reward_model_scores_replies_in_their_history(reward_model: Path) -> None:
    made = made_of(SelectorConfig(reward_model=reward_model), lambda: pytest.fail("no LLM"))
    assert not made.independent
    long = HISTORY * 50  # longer than the model's 64 positions
    ballots = [reply_ballot("a", HISTORY, ["x", "why?"]), reply_ballot("b", long, ["x", "why?"])]
    decisions = made.decide(ballots)
    assert all(len(set(decision.votes)) == 2 for decision in decisions)
    assert all(math.isfinite(vote) for decision in decisions for vote in decision.votes)
    score = load_reward_model(reward_model, "cpu")
    assert score("x", HISTORY) == decisions[0].votes[0] != score("x", ())


def test_folders_that_are_no_reward_model(tmp_path: Path, chatml_tokenizer: Any) -> None:
    def check(folder: Path) -> None:
        check_search(SearchConfig(selector=SelectorConfig(reward_model=folder)))

    with pytest.raises(ConfigError, match="not a model folder"):
        check(tmp_path)
    with pytest.raises(ConfigError, match="has 2 outputs"):
        check(saved_classifier(tmp_path / "two", chatml_tokenizer, outputs=2))


RELEVANCE = SelectorConfig(relevance=True)


def likelihood(request: Request, option: str) -> float:
    """A word costs two nats, one that was said before only one."""
    said = {word for message in request.messages for word in message.content.casefold().split()}
    return -float(sum(1 if word in said else 2 for word in option.casefold().split()))


def relevance(
    score: Callable[[Request, str], float] = likelihood, config: SelectorConfig = RELEVANCE
) -> RelevanceSelector:
    engine = ScriptedEngine(lambda request, candidate: "", score)
    made = made_of(config, lambda: engine)
    assert isinstance(made, RelevanceSelector)
    return made


def test_relevance_is_what_the_dialogue_adds_per_token() -> None:
    """'my dog' has two words said before: (4 - 2) / 2; 'my long talk' one: (6 - 5) / 3."""
    ballot = reply_ballot("b", HISTORY, ["my dog", "my long talk", "fine"])
    (decision,) = relevance().decide([ballot])
    assert decision.votes == (pytest.approx(1), pytest.approx(1 / 3), 0)
    assert decision.notes == ()


@pytest.mark.parametrize(("power", "divisors"), [(0, (1, 1)), (0.5, (2**0.5, 6**0.5))])
def test_a_lower_length_penalty_lets_longer_replies_win(
    power: float, divisors: tuple[float, float]
) -> None:
    """'my dog' gains 2 nats in 2 tokens; the other reply 3 nats in 6 tokens."""
    config = SelectorConfig(relevance=True, length_penalty=power)
    ballot = reply_ballot("b", HISTORY, ["my dog", "my dog is my new pet"])
    (decision,) = relevance(config=config).decide([ballot])
    assert decision.votes == (
        pytest.approx(2 / divisors[0]),
        pytest.approx(3 / divisors[1]),
    )


def test_a_turn_of_all_dialogues_is_one_call_and_each_history_is_read_once() -> None:
    calls: list[list[tuple[str, ...]]] = []

    class Counting(ScriptedEngine):
        def choose(self, requests, options):  # type: ignore[no-untyped-def]
            calls.append([tuple(message.content for message in r.messages) for r in requests])
            return super().choose(requests, options)

    selector = RelevanceSelector(Counting(lambda r, c: "", likelihood), 0)
    other = (Message("user", "It rains."),)
    selector.decide(
        [reply_ballot("a", HISTORY, ["x", "y"]), reply_ballot("b", other, ["x"]),
         reply_ballot("c", HISTORY, ["y", "z"])]
    )  # fmt: skip
    assert calls == [[("",), (HISTORY[0].content,), ("It rains.",)]]


def test_many_replies_are_asked_in_parts() -> None:
    sizes: list[int] = []

    class Counting(ScriptedEngine):
        def choose(self, requests, options):  # type: ignore[no-untyped-def]
            sizes.extend(len(choices) for choices in options)
            return super().choose(requests, options)

    replies = tuple(f"reply {number}" for number in range(130))
    asked = [Asked((), replies), Asked(HISTORY, ()), Asked(HISTORY, replies[:2])]
    found = log_likelihoods(Counting(lambda r, c: "", likelihood), asked, 0)
    assert sizes == [64, 64, 2, 2]
    assert found == [dict.fromkeys(replies, -4.0), {}, dict.fromkeys(replies[:2], -4.0)]


def test_equal_replies_have_equal_votes_and_courses_the_mean_of_theirs() -> None:
    """In the course the second reply comes after 'so my cat': 'cat' was said by then."""
    course = (
        Message("assistant", "dog"),
        Message("user", "so my cat"),
        Message("assistant", "cat"),
    )
    replies = (course[:1], (Message("assistant", "plain"),))
    ballots = [Ballot("a", HISTORY, (course, *replies)), Ballot("b", HISTORY, replies[::-1])]
    first, second = relevance().decide(ballots)
    assert first.votes == (1.0, 1.0, 0.0)
    assert second.votes == (0.0, 1.0)


def test_what_relevance_cannot_score_is_last_and_noted() -> None:
    def score(request: Request, option: str) -> float:
        if "long" in request.messages[-1].content:
            raise ContextError("too long")
        return likelihood(request, option) if option != "never" else -math.inf

    long = (Message("user", "A long story."),)
    blank = (Message("assistant", " "),)
    ballots = [
        reply_ballot("a", long, ["x", "y"]),
        reply_ballot("b", HISTORY, ["never", "my"]),
        Ballot("c", HISTORY, (blank, (Message("assistant", "my"),))),
    ]
    first, second, third = relevance(score).decide(ballots)
    assert first.votes == (-math.inf, -math.inf)
    assert first.notes == ("score_failed: ContextError: too long",)
    assert second.votes == (-math.inf, 1.0)
    assert second.notes == ("score_failed: it is nan",)
    assert third.votes == (-math.inf, 1.0)
    assert third.notes == ("score_failed: ValueError: it says nothing",)
    assert relevance().decide([]) == []


def test_a_search_keeps_the_most_relevant() -> None:
    found = self_play(SITUATIONS, Cast().players(relevance()), Greedy(4))
    for turn in found[0].trajectory.turns[1::2]:
        (chosen,) = [candidate for candidate in turn.candidates if candidate.chosen]
        assert chosen.votes == max(candidate.votes for candidate in turn.candidates)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"relevance": True, "random": True}, "relevance and random are both set"),
        ({"relevance": True, "none_is_good": True}, "cannot say that none is good"),
        ({"relevance": True, "engine": {"kind": "openai", "model": "gpt"}}, "scores whole replies"),
    ],
)
def test_settings_that_relevance_does_not_go_with(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectorConfig.model_validate(settings)


def test_relevance_asks_an_engine_but_ranks_nothing() -> None:
    assert (RELEVANCE.chosen, RELEVANCE.asks_engine) == ("relevance", True)
    server = {"kind": "openai", "model": "m0", "server": "vllm", "base_url": "http://x/v1"}
    assert SelectorConfig.model_validate({"relevance": True, "engine": server}).asks_engine
    check_search(SearchConfig(selector=RELEVANCE, candidates=99))  # no letters, no limit


def test_relevance_on_a_real_model(tiny_base: Path) -> None:
    """Against the definition: each reply scored alone, after the history and after nothing."""
    from sage_core.engines.in_process import TransformersEngine

    config = ModelConfig(base="tiny", dtype="float32", device="cpu", max_context=512)
    m0 = TransformersEngine(tiny_base, None, config)
    replies = ["Oh no, what happened then?", "dog", "That must have been cold. " * 5]
    (decision,) = RelevanceSelector(m0, 0).decide([reply_ballot("b", HISTORY, replies)])
    for reply, vote in zip(replies, decision.votes, strict=True):
        (after,), (alone,) = [
            m0.choose(
                [Request("r", messages, SamplingConfig(temperature=0, max_new_tokens=99))],
                [[reply]],
            )[0]
            for messages in (HISTORY, (Message("user", ""),))
        ]
        (tokens,) = m0.token_counts([reply])
        assert vote == pytest.approx((after - alone) / tokens, abs=1e-4)
