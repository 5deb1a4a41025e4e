"""Selectors that score each reply: functions and reward models, and what they may do wrong."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest
from conversation import SITUATIONS, Cast

from sage_core.config import SearchConfig, SelectorConfig
from sage_core.errors import ConfigError
from sage_core.schema import Message
from sage_core.search.scorers import ScoreSelector, fingerprint, load_function, load_reward_model
from sage_core.search.selector import Ballot, RandomSelector, reply_ballot
from sage_core.search.selfplay import search
from sage_core.search.setup import check_search, selector_of
from sage_core.search.strategies import Greedy

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
    found = search(SITUATIONS, Cast().players(selector("infinite")), Greedy(2))
    for each in found:
        assert each.trajectory.ended == "turns"
        assert all(
            turn.notes == ("score_failed: it is inf",) for turn in each.trajectory.turns[1::2]
        )
        assert all(turn.candidates[0].chosen for turn in each.trajectory.turns[1::2])


def test_the_search_keeps_what_the_function_likes(module: str) -> None:
    found = search(SITUATIONS, Cast().players(selector("words")), Greedy(4))
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


def test_a_changed_function_is_another_search(module: str, tmp_path: Path) -> None:
    config = SelectorConfig(function="my_scores:words")
    before = fingerprint(config)
    assert before == fingerprint(config)
    (tmp_path / "my_scores.py").write_text(MODULE + "\n# changed\n")
    assert fingerprint(config) != before
    assert fingerprint(SelectorConfig()) == fingerprint(SelectorConfig(random=True)) == ""


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
    made = selector_of(
        SelectorConfig(reward_model=reward_model), lambda: pytest.fail("no LLM"), 0, "cpu"
    )
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

    with pytest.raises(ConfigError, match="no model folder"):
        check(tmp_path)
    with pytest.raises(ConfigError, match="has 2 outputs"):
        check(saved_classifier(tmp_path / "two", chatml_tokenizer, outputs=2))
