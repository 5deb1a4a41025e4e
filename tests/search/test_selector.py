"""The selector with scripted scorers: what it picks, how votes add up, what it is shown."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_core.config import SelectorConfig
from sage_core.engines.base import Request
from sage_core.engines.scripted import ScriptedEngine
from sage_core.errors import ConfigError
from sage_core.schema import Message
from sage_core.search.selector import MAX_CANDIDATES, Ballot, borda_votes

HISTORY = (Message("user", "My dog ran away."), Message("assistant", "Oh no!"))
CANDIDATES = ("Oh dear.", "How sad!", "Dogs come back.", "What is its name?")


def shown(request: Request) -> dict[str, str]:
    """Letter -> candidate, as the prompt shows them."""
    replies = request.messages[-1].content.split("Replies:\n")[1]
    return dict(re.findall(r"^([A-Z])\. (.*)$", replies, re.MULTILINE))


def scorer(points: dict[str, float]) -> ScriptedEngine:
    """A scorer that knows what it likes, wherever it stands."""
    return ScriptedEngine(
        lambda request, candidate: "", lambda request, option: points[shown(request)[option]]
    )


@given(st.permutations(CANDIDATES), st.integers(1, 5), st.integers(0, 20))
def test_votes_follow_the_scorer_whatever_the_order(
    candidates: list[str], shuffles: int, seed: int
) -> None:
    points = {"Oh dear.": 1.0, "How sad!": 3.5, "Dogs come back.": -2.0, "What is its name?": 2.0}
    (votes,) = borda_votes(
        [Ballot("b", HISTORY, tuple(candidates))],
        scorer(points),
        SelectorConfig(shuffles=shuffles),
        seed,
    )
    by_text = dict(zip(candidates, votes, strict=True))
    assert by_text == pytest.approx(
        {"How sad!": 3.0, "What is its name?": 2.0, "Oh dear.": 1.0, "Dogs come back.": 0.0}
    )


def test_borda_counts_of_two_shuffles_are_averaged() -> None:
    """The scorer ranks x y z in the first order and z x y in the second:
    x: (2 + 1) / 2, y: (1 + 0) / 2, z: (0 + 2) / 2."""
    points = {"0": {"x": 0.0, "y": -1.0, "z": -2.0}, "1": {"z": 0.0, "x": -1.0, "y": -2.0}}

    def score(request: Request, option: str) -> float:
        return points[request.request_id.split("/")[-1]][shown(request)[option]]

    engine = ScriptedEngine(lambda request, candidate: "", score)
    (votes,) = borda_votes(
        [Ballot("b", HISTORY, ("x", "y", "z"))], engine, SelectorConfig(shuffles=2), 0
    )
    assert votes == pytest.approx([1.5, 0.5, 1.0])


def likes_the_first() -> ScriptedEngine:
    """A scorer that looks at the position only."""
    return ScriptedEngine(lambda request, candidate: "", lambda request, option: -ord(option) / 10)


def test_shuffling_takes_the_weight_off_the_position() -> None:
    """One order: the votes are 3, 2, 1, 0 by position. Many: all near the mean, 1.5. The standard
    error of a mean of n draws from 0..3 is 1.118 / sqrt(n) = 0.056 for 400; five of them at most.
    """
    ballot = [Ballot("b", HISTORY, CANDIDATES)]
    (once,) = borda_votes(ballot, likes_the_first(), SelectorConfig(shuffles=1), 0)
    assert sorted(once) == [0, 1, 2, 3]
    (often,) = borda_votes(ballot, likes_the_first(), SelectorConfig(shuffles=400), 0)
    assert sum(often) == pytest.approx(6)
    assert max(abs(votes - 1.5) for votes in often) < 5 * 0.056


def test_orders_differ_by_ballot_and_are_the_same_for_a_seed() -> None:
    ballots = [Ballot(f"b{number}", HISTORY, CANDIDATES) for number in range(12)]
    votes = borda_votes(ballots, likes_the_first(), SelectorConfig(), 4)
    assert votes == borda_votes(ballots, likes_the_first(), SelectorConfig(), 4)
    assert votes != borda_votes(ballots, likes_the_first(), SelectorConfig(), 5)
    assert len({tuple(v) for v in votes}) > 3
    # A ballot's votes depend on no other ballot.
    assert borda_votes(ballots[5:6], likes_the_first(), SelectorConfig(), 4) == votes[5:6]


def test_ballots_of_different_sizes_keep_their_votes() -> None:
    ballots = [
        Ballot("two", HISTORY, ("a", "b")),
        Ballot("three", HISTORY, ("c", "d", "e")),
    ]
    engine = scorer({"a": 0, "b": 1, "c": 1, "d": 2, "e": 0})
    assert borda_votes(ballots, engine, SelectorConfig(shuffles=3), 0) == [
        pytest.approx([0, 1]),
        pytest.approx([1, 2, 0]),
    ]


def test_an_option_without_a_probability_is_last() -> None:
    engine = scorer({"a": float("-inf"), "b": -9.0, "c": -8.0})
    (votes,) = borda_votes([Ballot("b", HISTORY, ("a", "b", "c"))], engine, SelectorConfig(), 0)
    assert votes == [0, 1, 2]


def test_as_many_candidates_as_letters_and_no_more() -> None:
    most = tuple(f"reply {number}" for number in range(MAX_CANDIDATES))
    engine = likes_the_first()
    (votes,) = borda_votes([Ballot("b", HISTORY, most)], engine, SelectorConfig(), 0)
    assert sorted(votes) == list(range(26))
    with pytest.raises(ConfigError, match=r"search\.candidates = 27.*at most 26"):
        borda_votes([Ballot("b", HISTORY, (*most, "more"))], engine, SelectorConfig(), 0)


def test_the_prompt_shows_criteria_history_and_every_candidate_once() -> None:
    seen: list[Request] = []

    def score(request: Request, option: str) -> float:
        seen.append(request)
        return 0.0

    engine = ScriptedEngine(lambda request, candidate: "", score)
    config = SelectorConfig(criteria=("wit", "warmth"))
    borda_votes([Ballot("b", HISTORY, CANDIDATES)], engine, config, 0)
    request = seen[0]
    assert "wit, warmth" in request.messages[0].content
    text = request.messages[-1].content
    assert text.startswith("Person: My dog ran away.\nCompanion: Oh no!\n")
    assert sorted(shown(request).values()) == sorted(CANDIDATES)
    assert list(shown(request)) == list(string.ascii_uppercase[:4])
