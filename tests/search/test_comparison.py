"""Strategies at the same number of tokens."""

from dataclasses import replace

import pytest
from conversation import SITUATIONS, Cast

from sage_core.config.search import TreeConfig
from sage_core.errors import DataError
from sage_core.evaluation.winrate import PairSummary
from sage_core.search.comparison import play_strategies, strategy_rows
from sage_core.search.selectors.scores import ScoreSelector
from sage_core.search.selfplay import self_play
from sage_core.search.strategies.best_of_n_dialogue import BestOfNDialogue
from sage_core.search.strategies.greedy import Greedy
from sage_core.search.strategies.tree import Tree

MANY = [replace(SITUATIONS[n % 3], situation_id=f"s{n}") for n in range(12)]
SELECTOR = ScoreSelector(lambda utterance, history: float(len(utterance)), independent=True)
STRATEGIES = {
    "greedy": Greedy(3),
    "best_of_n_dialogue": BestOfNDialogue(4),
    "tree": Tree(6, TreeConfig(width=3, wordings=2, depth=1)),
}


def test_dearer_strategies_get_fewer_situations_for_the_same_tokens() -> None:
    players = Cast().players(SELECTOR)
    found = play_strategies(MANY, players, STRATEGIES, 2)
    budget = sum(each.trajectory.generated_tokens for each in found["greedy"])
    assert len(found["greedy"]) == 12
    for name, strategy in STRATEGIES.items():
        spent = sum(each.trajectory.generated_tokens for each in found[name])
        size = len(found[name])
        assert spent <= budget
        # One more dialogue would have been too much, and those there are as if played alone.
        more = self_play(MANY[: size + 1], players, strategy)
        assert more[:size] == found[name]
        assert size == 12 or sum(m.trajectory.generated_tokens for m in more) > budget
    assert len(found["tree"]) < 12


def test_the_cheapest_sets_the_budget_wherever_it_stands() -> None:
    players = Cast().players(SELECTOR)
    found = play_strategies(MANY, players, {"tree": STRATEGIES["tree"], "greedy": Greedy(1)}, 5)
    assert len(found["greedy"]) == 12
    assert len(found["tree"]) < 12


def test_a_budget_that_buys_nothing() -> None:
    tree = Tree(9, TreeConfig(width=4, wordings=4, depth=2))
    with pytest.raises(DataError, match=r"one dialogue of 'tree'; raise search\.situations"):
        play_strategies(MANY[:1], Cast().players(SELECTOR), {"greedy": Greedy(1), "tree": tree}, 2)


def test_the_rows_say_what_was_bought() -> None:
    found = play_strategies(MANY, Cast().players(SELECTOR), STRATEGIES, 4)
    summary = PairSummary("j", "greedy", "tree", 3, 0, 2, 1, 0, 1.0, 1.0, 0.0, 1.0)
    rows = strategy_rows(found, {"tree": summary}, states=True)
    assert [row.strategy for row in rows] == list(STRATEGIES)
    assert [row.against_greedy for row in rows] == [None, None, summary]
    assert rows[0].dialogues == 12
    assert rows[0].turns.value == 6
    assert rows[0].ended == {"turns": 12}
    assert rows[0].reply_words.value == 2  # "word 123."
