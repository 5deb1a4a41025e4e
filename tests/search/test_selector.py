"""The selector with scripted scorers: what it picks, how votes add up, what it is shown."""

import json
import re
import string
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import ScriptedEngine

from sage_core.config.search import SelectorConfig
from sage_core.engines.base import Request
from sage_core.errors import ConfigError, ContextError
from sage_core.evaluation.metrics import Rate
from sage_core.schema import Message, Showing
from sage_core.search.figures import position_bias
from sage_core.search.selectors.llm import MAX_OPTIONS, NONE_IS_GOOD, LLMSelector
from sage_core.search.selectors.selector import Ballot, Decision, reply_ballot

HISTORY = (Message("user", "My dog ran away."), Message("assistant", "Oh no!"))
CANDIDATES = ("Oh dear.", "How sad!", "Dogs come back.", "What is its name?")


def shown(request: Request) -> dict[str, str]:
    """Letter -> candidate, as the prompt shows them."""
    replies = request.messages[-1].content.split("Replies:\n")[1]
    found = re.findall(r"^([A-Z])\. (.*)$", replies, re.MULTILINE)
    return {letter: json.loads(text) if text.startswith('"') else text for letter, text in found}


def borda_votes(
    ballots: list[Ballot], engine: ScriptedEngine, config: SelectorConfig, seed: int
) -> list[list[float]]:
    decisions = LLMSelector(engine, config, seed).decide(ballots)
    return [list(decision.votes) for decision in decisions]


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
        [reply_ballot("b", HISTORY, tuple(candidates))],
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
        [reply_ballot("b", HISTORY, ("x", "y", "z"))], engine, SelectorConfig(shuffles=2), 0
    )
    assert votes == pytest.approx([1.5, 0.5, 1.0])


def likes_the_first() -> ScriptedEngine:
    """A scorer that looks at the position only."""
    return ScriptedEngine(lambda request, candidate: "", lambda request, option: -ord(option) / 10)


def test_shuffling_takes_the_weight_off_the_position() -> None:
    """One order: the votes are 3, 2, 1, 0 by position. Many: all near the mean, 1.5. The standard
    error of a mean of n draws from 0..3 is 1.118 / sqrt(n) = 0.056 for 400; five of them at most.
    """
    ballot = [reply_ballot("b", HISTORY, CANDIDATES)]
    (once,) = borda_votes(ballot, likes_the_first(), SelectorConfig(shuffles=1), 0)
    assert sorted(once) == [0, 1, 2, 3]
    (often,) = borda_votes(ballot, likes_the_first(), SelectorConfig(shuffles=400), 0)
    assert sum(often) == pytest.approx(6)
    assert max(abs(votes - 1.5) for votes in often) < 5 * 0.056


def test_orders_differ_by_ballot_and_are_the_same_for_a_seed() -> None:
    ballots = [reply_ballot(f"b{number}", HISTORY, CANDIDATES) for number in range(12)]
    votes = borda_votes(ballots, likes_the_first(), SelectorConfig(), 4)
    assert votes == borda_votes(ballots, likes_the_first(), SelectorConfig(), 4)
    assert votes != borda_votes(ballots, likes_the_first(), SelectorConfig(), 5)
    assert len({tuple(v) for v in votes}) > 3
    # A ballot's votes depend on no other ballot.
    assert borda_votes(ballots[5:6], likes_the_first(), SelectorConfig(), 4) == votes[5:6]


def test_ballots_of_different_sizes_keep_their_votes() -> None:
    ballots = [
        reply_ballot("two", HISTORY, ("a", "b")),
        reply_ballot("three", HISTORY, ("c", "d", "e")),
    ]
    engine = scorer({"a": 0, "b": 1, "c": 1, "d": 2, "e": 0})
    assert borda_votes(ballots, engine, SelectorConfig(shuffles=3), 0) == [
        pytest.approx([0, 1]),
        pytest.approx([1, 2, 0]),
    ]


def test_an_option_without_a_probability_is_last() -> None:
    engine = scorer({"a": float("-inf"), "b": -9.0, "c": -8.0})
    (votes,) = borda_votes(
        [reply_ballot("b", HISTORY, ("a", "b", "c"))], engine, SelectorConfig(), 0
    )
    assert votes == [0, 1, 2]


def test_as_many_candidates_as_letters_and_no_more() -> None:
    most = tuple(f"reply {number}" for number in range(MAX_OPTIONS))
    engine = likes_the_first()
    (votes,) = borda_votes([reply_ballot("b", HISTORY, most)], engine, SelectorConfig(), 0)
    assert sorted(votes) == list(range(26))
    with pytest.raises(ConfigError, match=r"search\.candidates = 27.*at most 26"):
        borda_votes([reply_ballot("b", HISTORY, (*most, "more"))], engine, SelectorConfig(), 0)


def test_the_prompt_shows_criteria_history_and_every_candidate_once() -> None:
    seen: list[Request] = []

    def score(request: Request, option: str) -> float:
        seen.append(request)
        return 0.0

    engine = ScriptedEngine(lambda request, candidate: "", score)
    config = SelectorConfig(criteria=("wit", "warmth"))
    borda_votes([reply_ballot("b", HISTORY, CANDIDATES)], engine, config, 0)
    request = seen[0]
    assert "wit, warmth" in request.messages[0].content
    text = request.messages[-1].content
    assert text.startswith('Person: "My dog ran away."\nCompanion: "Oh no!"\n')
    assert sorted(shown(request).values()) == sorted(CANDIDATES)
    assert list(shown(request)) == list(string.ascii_uppercase[:4])


# --- none is good, humour, what cannot be read ----------------------------------------------------


def decide(
    engine: ScriptedEngine, config: SelectorConfig, candidates: tuple[str, ...] = CANDIDATES
) -> Decision:
    (decision,) = LLMSelector(engine, config, 0).decide(
        [reply_ballot("b", HISTORY, list(candidates))]
    )
    return decision


def test_none_is_good_is_one_more_option() -> None:
    """Points 0 to 3 for the four candidates; none beats all of them at 9, and not at 2.5."""
    points = {text: float(place) for place, text in enumerate(CANDIDATES)}
    config = SelectorConfig(none_is_good=True, shuffles=3)
    refused = decide(scorer({**points, NONE_IS_GOOD: 9.0}), config)
    assert refused.none_is_good
    assert refused.votes == pytest.approx((0, 1, 2, 3))
    taken = decide(scorer({**points, NONE_IS_GOOD: 2.5}), config)
    assert not taken.none_is_good
    assert taken.votes == pytest.approx((0, 1, 2, 4))
    assert {showing.options for showing in taken.showings} == {5}
    # With points alike for all, nothing says that none is better.
    assert not decide(ScriptedEngine(lambda request, candidate: ""), config).none_is_good


def test_none_is_good_takes_a_letter() -> None:
    most = tuple(f"reply {number}" for number in range(MAX_OPTIONS))
    decide(likes_the_first(), SelectorConfig(none_is_good=True), most[1:])
    with pytest.raises(ConfigError, match="one less with selector"):
        decide(likes_the_first(), SelectorConfig(none_is_good=True), most)


def test_humour_asks_for_the_funniest_only() -> None:
    seen: list[Request] = []

    def score(request: Request, option: str) -> float:
        seen.append(request)
        return 0.0

    decide(ScriptedEngine(lambda r, c: "", score), SelectorConfig(criteria="humour"))
    text = seen[0].messages[0].content
    assert "funnier" in text
    assert "sympathy" not in text


@pytest.mark.parametrize("nonsense", [float("nan"), float("-inf"), float("inf")])
def test_nonsense_to_everything_decides_nothing_and_is_noted(nonsense: float) -> None:
    engine = ScriptedEngine(lambda r, c: "", lambda request, option: nonsense)
    decision = decide(engine, SelectorConfig(shuffles=2, none_is_good=True))
    assert decision.votes == (0.0,) * 4
    assert not decision.none_is_good
    assert decision.notes == ("selector_unreadable: 2 of 2",)
    assert [showing.place for showing in decision.showings] == [None, None]


def test_one_order_that_cannot_be_read_leaves_the_others() -> None:
    points = dict(zip(CANDIDATES, (0.0, 1.0, 2.0, 3.0), strict=True))

    def score(request: Request, option: str) -> float:
        return float("nan") if request.request_id.endswith("/1") else points[shown(request)[option]]

    decision = decide(ScriptedEngine(lambda r, c: "", score), SelectorConfig(shuffles=3))
    assert decision.votes == pytest.approx((0, 1, 2, 3))
    assert decision.notes == ("selector_unreadable: 1 of 3",)


def test_options_alike_share_their_points_and_no_place_wins() -> None:
    """a and b tie on top of c and d, which tie as well: (3 + 2) / 2 and (1 + 0) / 2."""
    engine = scorer(dict(zip(CANDIDATES, (1.0, 1.0, 0.0, 0.0), strict=True)))
    decision = decide(engine, SelectorConfig())
    assert decision.votes == (2.5, 2.5, 0.5, 0.5)
    assert decision.showings[0].place is None


class Narrow(ScriptedEngine):
    """Has room for 120 characters of prompt."""

    def choose(
        self, requests: Sequence[Request], options: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        if any(len(request.messages[-1].content) > 120 for request in requests):
            raise ContextError("too long")
        return super().choose(requests, options)


def test_a_history_that_is_too_long_is_shown_in_part() -> None:
    history = (Message("user", "I start."),) + 9 * HISTORY[::-1]
    seen: list[str] = []

    def score(request: Request, option: str) -> float:
        seen.append(request.messages[-1].content)
        return float(option == "A")

    engine = Narrow(lambda request, candidate: "", score)
    short = reply_ballot("short", HISTORY[:1], ["x", "y"])
    long = reply_ballot("long", history, ["x", "y"])
    hopeless = reply_ballot("hopeless", HISTORY[:1], ["x" * 200, "y"])
    decisions = LLMSelector(engine, SelectorConfig(), 0).decide([short, long, hopeless])
    assert [decision.notes for decision in decisions] == [
        (),
        ("selector_history_cut",),
        ("selector_unreadable: 1 of 1 (context_length)",),
    ]
    assert max(decisions[1].votes) == 1
    (cut,) = {text for text in seen if "I start." in text}
    assert cut.startswith('Person: "I start."\nCompanion: "Oh no!"\nPerson: "My dog ran away."')


def test_courses_of_several_turns_are_shown_whole() -> None:
    seen: list[Request] = []

    def score(request: Request, option: str) -> float:
        seen.append(request)
        return float(option == "A")

    courses = (
        (Message("assistant", "a"), Message("user", "b"), Message("assistant", "c")),
        (Message("assistant", "d"),),
    )
    engine = ScriptedEngine(lambda request, candidate: "", score)
    LLMSelector(engine, SelectorConfig(), 0).decide([Ballot("b", HISTORY[:1], courses)])
    assert 'Companion: "a"\nPerson: "b"\nCompanion: "c"' in seen[0].messages[-1].content
    assert "how a conversation" in seen[0].messages[0].content


# --- a planted position bias ----------------------------------------------------------------------

QUALITY = {f"reply {number}": float(number) for number in range(4)}
PLANTED = 0.4


def biased(request: Request, option: str) -> float:
    """Ranks by quality; in 40% of the showings, drawn by chance, the first place is put on top."""
    if Random(request.request_id).random() < PLANTED and option == "A":
        return 99.0
    return QUALITY[shown(request)[option]]


def biased_decisions(ballots: int, shuffles: int) -> list[Decision]:
    selector = LLMSelector(
        ScriptedEngine(lambda request, candidate: "", biased), SelectorConfig(shuffles=shuffles), 0
    )
    return selector.decide(
        [reply_ballot(f"{number}", HISTORY, list(QUALITY)) for number in range(ballots)]
    )


def test_the_borda_counts_bias_falls_as_shuffles_grow() -> None:
    """The best reply stands first by chance in a quarter of the showings, so a selector with the
    planted bias errs in 0.4 * 3 / 4 = 30% of single showings. The mean Borda count of the best is
    3 less 1 for each error, of the next 2 plus 1 for a quarter of 40%: 2.7 against 2.03 or so, so
    that errors die out with the number of showings."""
    errors = []
    for shuffles in (1, 3, 9, 27):
        decisions = biased_decisions(400, shuffles)
        wrong = sum(max(decision.votes) > decision.votes[3] for decision in decisions)
        errors.append(wrong / len(decisions))
    assert errors[0] == pytest.approx(0.3, abs=0.07)  # three standard errors of 400 draws
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < errors[0] - 0.05
    assert errors[3] < 0.02


@pytest.mark.parametrize("shuffles", [1, 4])
def test_the_reported_bias_covers_the_planted_one(shuffles: int) -> None:
    """The first of four places wins in 0.4 + 0.6 / 4 of the showings, each other in 0.6 / 4."""
    decisions = biased_decisions(500, shuffles)
    bias = position_bias([showing for decision in decisions for showing in decision.showings])
    first, *others = bias.places
    assert first.ci_low < PLANTED + (1 - PLANTED) / 4 < first.ci_high  # type: ignore[operator]
    for place in others:
        assert place.ci_low < (1 - PLANTED) / 4 < place.ci_high  # type: ignore[operator]
    assert bias.p_value is not None
    assert bias.p_value < 1e-6
    assert first.n == 500 * shuffles


def test_without_bias_none_is_reported() -> None:
    selector = LLMSelector(scorer(QUALITY), SelectorConfig(), 0)
    ballots = [reply_ballot(f"{n}", HISTORY, list(QUALITY)[: 2 + n % 3]) for n in range(600)]
    showings = [s for decision in selector.decide(ballots) for s in decision.showings]
    bias = position_bias(showings)
    assert bias.p_value is not None
    assert bias.p_value > 0.01
    assert [place.n for place in bias.places] == [600, 600, 400, 200]
    assert bias.undecided == Rate.of(0, 600)


def test_showings_without_a_winner_are_counted_apart() -> None:
    showings = [Showing("t", "b", n, 2, place) for n, place in enumerate((0, 1, None, 0))]
    bias = position_bias(showings)
    assert [(place.hits, place.n) for place in bias.places] == [(2, 3), (1, 3)]
    assert bias.undecided == Rate.of(1, 4)
    nothing = position_bias([])
    assert (nothing.places, nothing.p_value) == ((), None)
