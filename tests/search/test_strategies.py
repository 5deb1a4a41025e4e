"""The strategies: what they draw, compare and keep, and the tree that is left of it."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from conversation import ACTIONS, SITUATIONS, Cast, drawn, states

from sage_core.config.conversation import ConversationConfig
from sage_core.config.search import SearchConfig, SelectorConfig, TreeConfig
from sage_core.engines.base import Request
from sage_core.errors import ConfigError
from sage_core.sac import parse, utterance_of
from sage_core.schema import SearchNode
from sage_core.search.checks import check_search
from sage_core.search.selectors.scores import ScoreSelector
from sage_core.search.selectors.selector import Ballot, Decision
from sage_core.search.selfplay import Found, self_play
from sage_core.search.strategies.best_of_n_dialogue import BestOfNDialogue
from sage_core.search.strategies.greedy import Greedy
from sage_core.search.strategies.strategy import strategy_of
from sage_core.search.strategies.tree import Tree
from sage_core.training.data import preference_pairs


def value(utterance: str, history: object = None) -> float:
    """The number in the words of the script."""
    return float(utterance.split()[-1].rstrip("."))


BY_VALUE = ScoreSelector(value, independent=True)


class Refusing:
    """Finds none good the first ``times`` it is asked about a turn; keeps what it was asked."""

    may_refuse = True
    independent = False

    def __init__(self, times: int) -> None:
        self.times = times
        self.asked: dict[str, list[Ballot]] = {}

    def decide(self, ballots: Sequence[Ballot]) -> list[Decision]:
        decisions = []
        for ballot in ballots:
            turn = "/".join(ballot.ballot_id.split("/")[:3])
            before = self.asked.setdefault(turn, [])
            before.append(ballot)
            votes = tuple(float(number) for number in range(len(ballot.candidates)))
            decisions.append(Decision(votes, none_is_good=len(before) <= self.times))
        return decisions


def check_tree(found: Found) -> dict[int, list[SearchNode]]:
    """What holds of every tree: one root, parents before children, and a chosen path from the
    situation that is the trajectory; the children of each node."""
    children: dict[int, list[SearchNode]] = {}
    root, *others = found.nodes
    assert (root.node, root.parent, root.kind, root.chosen) == (0, -1, "situation", True)
    assert [node.node for node in found.nodes] == list(range(len(found.nodes)))
    for node in others:
        assert node.parent < node.node
        children.setdefault(node.parent, []).append(node)
    path, at = [root.content], root
    while chosen := [node for node in children.get(at.node, []) if node.chosen]:
        (at,) = chosen
        if at.kind == "reply":
            path.append(at.content)
    assert path == [turn.content for turn in found.trajectory.turns]
    assert {node.trajectory_id for node in found.nodes} == {found.trajectory.trajectory_id}
    return children


def test_greedy_keeps_the_best_of_each_turn_and_shows_the_others() -> None:
    for found in self_play(SITUATIONS, Cast().players(BY_VALUE), Greedy(4)):
        children = check_tree(found)
        for number, turn in enumerate(found.trajectory.turns):
            if number % 2:
                values = [value(utterance_of(c.text)) for c in turn.candidates]
                assert [c.votes for c in turn.candidates] == values
                assert value(turn.content) == max(values)
        replies = [nodes for nodes in children.values() if len(nodes) > 1]
        assert [len(nodes) for nodes in replies] == [4, 4, 4]


@pytest.mark.parametrize(("redraws", "times", "ended"), [(2, 2, "turns"), (2, 3, "none_good")])
def test_candidates_are_drawn_anew_where_none_is_good(redraws: int, times: int, ended: str) -> None:
    selector = Refusing(times)
    found = self_play(SITUATIONS[:1], Cast().players(selector, max_turns=2), Greedy(3, redraws))[0]
    (ballots,) = selector.asked.values()
    assert len(ballots) == 3
    assert len({ballot.candidates for ballot in ballots}) == 3  # other draws each time
    assert found.trajectory.ended.partition(":")[0] == ended
    assert len(found.nodes) == 1 + 3 * 3  # what was refused is in the tree
    check_tree(found)
    if ended == "turns":
        assert found.trajectory.turns[1].notes == ("redrawn: 2",)


def test_one_candidate_is_a_choice_where_none_may_be_good() -> None:
    found = self_play(SITUATIONS[:1], Cast().players(Refusing(9), max_turns=2), Greedy(1, 1))[0]
    assert found.trajectory.ended == "none_good: 1 redraws"


def test_best_of_n_picks_among_whole_dialogues() -> None:
    cast = Cast()
    found = self_play(SITUATIONS, cast.players(BY_VALUE), BestOfNDialogue(3))
    for number, each in enumerate(found):
        children = check_tree(each)
        assert len(children[0]) == 3
        for line in children[0]:
            said, at = [], line
            while True:
                if at.role == "assistant":
                    said.append(value(at.content))
                below = children.get(at.node, [])
                if not below:
                    break
                (at,) = below
            assert line.votes == pytest.approx(sum(said) / len(said))
            assert len(said) == 3
        (chosen,) = [line for line in children[0] if line.chosen]
        assert chosen.votes == max(line.votes or 0 for line in children[0])
        # One line alone is what a greedy search with one candidate plays.
        if chosen is children[0][0]:
            plain = self_play(SITUATIONS[number : number + 1], Cast().players(), Greedy(1))[0]
            assert [t.content for t in each.trajectory.turns] == [
                t.content for t in plain.trajectory.turns
            ]
        assert sorted(c.votes for c in each.trajectory.turns[1].candidates) == sorted(
            line.votes or 0 for line in children[0]
        )
    pairs = preference_pairs([each.trajectory for each in found], ConversationConfig().agent, 0)
    assert len(pairs) == len(SITUATIONS)
    # Each situation: its states, and 3 dialogues of 3 replies and 2 answers.
    assert len(cast.requests) == 3 * (1 + 3 * (3 + 2))


def test_tree_draws_distinct_actions_then_words_then_looks_ahead() -> None:
    cast = Cast()
    config = TreeConfig(width=3, wordings=2, depth=1)
    found = self_play(SITUATIONS[:1], cast.players(BY_VALUE, max_turns=4), Tree(12, config))[0]
    children = check_tree(found)
    actions = children[0]
    assert [node.kind for node in actions] == ["action"] * 3
    assert len({parse(node.content + " x").agent.motivation for node in actions}) == 3
    for action in actions:
        wordings = children[action.node]
        assert [node.kind for node in wordings] == ["reply"] * 2
        assert all(node.content.startswith(action.content) for node in wordings)
        assert [node.votes for node in wordings] == [value(node.content) for node in wordings]
        best = max(wordings, key=lambda node: node.votes or 0)
        (user,) = [n for n in children[best.node] if n.kind == "look_ahead"]
        (agent,) = children[user.node]
        assert (user.role, agent.role, agent.kind) == ("user", "assistant", "look_ahead")
        assert action.votes == pytest.approx((value(best.content) + value(agent.content)) / 2)
    assert max(actions, key=lambda node: node.votes or 0).chosen
    turn = found.trajectory.turns[1]
    assert [candidate.votes for candidate in turn.candidates] == [n.votes for n in actions]
    # The last turn of four has no exchange left to look at.
    last = [n for n in found.nodes if n.kind == "action"][3:]
    assert last
    assert not any(
        below.kind == "look_ahead"
        for action in last
        for wording in children[action.node]
        for below in children.get(wording.node, [])
    )


def test_the_look_ahead_can_turn_the_choice() -> None:
    """Of the actions, 'cheer' has the better reply, 'tease' the better next exchange."""
    worth = {"cheer": ("9.", "0."), "tease": ("5.", "8.")}

    def script(request: Request, candidate: int) -> str:
        name = request.request_id
        if name.endswith("-states"):
            return states(("cheer", "tease")[candidate % 2]) + " "
        if "-words-" in name:
            return f" now {worth[parse(request.prefix + ' x').agent.motivation or ''][0]}"
        if ">" in name and name.endswith("/agent"):
            earlier = parse(request.messages[-2].content).agent.motivation
            return f"{states()} later {worth[earlier or ''][1]}"
        return drawn(request, candidate)

    for depth, expected in ((0, "cheer"), (1, "tease")):
        tree = Tree(4, TreeConfig(width=2, wordings=1, depth=depth))
        found = self_play(SITUATIONS[:1], Cast(script).players(BY_VALUE, max_turns=4), tree)[0]
        assert parse(found.trajectory.turns[1].content).agent.motivation == expected


def test_tree_counts_the_tokens_of_branches_it_drops() -> None:
    cast = Cast()
    found = self_play(
        SITUATIONS[:1], cast.players(BY_VALUE), Tree(6, TreeConfig(width=2, wordings=2, depth=1))
    )[0]
    words = sum(
        len(drawn(request, candidate).split())
        for request in cast.requests
        for candidate in range(request.n)
    )
    assert found.trajectory.generated_tokens == words


def test_tree_redraws_and_ends_as_greedy_does() -> None:
    selector = Refusing(1)
    tree = Tree(4, TreeConfig(width=2, wordings=1, depth=1), redraws=1)
    (found,) = self_play(SITUATIONS[:1], Cast().players(selector, max_turns=2), tree)
    assert found.trajectory.turns[1].notes[0] == "redrawn: 1"
    check_tree(found)
    players = Cast().players(Refusing(9), max_turns=2)
    (found,) = self_play(SITUATIONS[:1], players, tree)
    assert found.trajectory.ended == "none_good: 1 redraws"


def test_tree_without_a_readable_state_or_words_ends() -> None:
    for text, ended in (("{u_motivation: vent", "states_never_closed"), ("", "no_reply")):

        def script(request: Request, candidate: int, text: str = text) -> str:
            if request.request_id.endswith("-states"):
                return text or states() + " "
            return "  "

        (found,) = self_play(SITUATIONS[:1], Cast(script).players(), Tree(2, TreeConfig()))
        assert found.trajectory.ended == ended


def test_tree_needs_states() -> None:
    players = Cast().players()
    plain = replace(players, agent=replace(players.agent, states=False))
    with pytest.raises(ConfigError, match="choose greedy or best_of_n_dialogue"):
        self_play(SITUATIONS[:1], plain, Tree(2, TreeConfig()))
    with pytest.raises(ValueError, match="state_grammar=true"):
        SearchConfig.model_validate({"strategy": "tree", "selfplay": {"state_grammar": False}})


def test_the_configuration_names_the_strategy() -> None:
    base = SearchConfig(candidates=4)
    none = SelectorConfig(none_is_good=True, redraws=3)
    assert strategy_of(base) == Greedy(4)
    assert strategy_of(base.model_copy(update={"selector": none})) == Greedy(4, redraws=3)
    best = base.model_copy(update={"strategy": "best_of_n_dialogue"})
    assert strategy_of(best) == BestOfNDialogue(4)
    tree = base.model_copy(update={"strategy": "tree"})
    assert strategy_of(tree) == Tree(4, TreeConfig())


def test_more_options_than_letters_are_refused_before_the_start() -> None:
    check_search(SearchConfig(candidates=26))
    for config in (
        SearchConfig(candidates=27),
        SearchConfig(candidates=26, selector=SelectorConfig(none_is_good=True)),
        SearchConfig(candidates=4, strategy="tree", tree=TreeConfig(width=27)),
    ):
        with pytest.raises(ConfigError, match="letters"):
            check_search(config)
    check_search(SearchConfig(candidates=40, selector=SelectorConfig(random=True)))
    check_search(SearchConfig(candidates=40, strategy="tree"))
    assert len(ACTIONS) == 4
