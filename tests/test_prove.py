"""What `make prove` measures and concludes, on replies written down here."""

import pytest

from benchmarks import properties, prove
from benchmarks.prove import Counts, Property, claims, counts, move
from sage_core.schema import Candidate, Trajectory, TrajectoryTurn

STATES = (
    "{u_motivation: x, u_emotion: y, u_topic: []} {a_motivation: x?, a_emotion: y, a_topic: []}"
)


def trajectory(situation: str, *replies: str) -> Trajectory:
    turns = []
    for reply in replies:
        turns += [
            TrajectoryTurn("user", "Do you ask me?", ()),
            TrajectoryTurn(
                "assistant",
                f"{STATES} {reply}",
                (Candidate(f"{STATES} {reply}", 0, True), Candidate(f"{STATES} Yes.", 1, False)),
            ),
        ]
    return Trajectory(f"m1/{situation}", situation, "Do you?", "joyful", tuple(turns))


def test_all_drawn_replies_count_each_at_its_situation() -> None:
    rows = [
        trajectory("b", "Why? I see.", "How was it? "),
        trajectory("a", "Really?", "No.", "And then?"),
        trajectory("c"),
    ]
    found = counts(rows, properties.question, ["a", "b", "c"])
    assert found == Counts(hits=(2, 1, 0), replies=(6, 4, 0))
    assert found.rate.value == pytest.approx(3 / 10)


@pytest.mark.parametrize("name", list(Property))
def test_each_property_can_be_turned_around(name: Property) -> None:
    has, lacks = getattr(properties, name), getattr(properties, f"no_{name}")
    replies = ["Why?", "I see.", "", "word " * properties.SHORT_WORDS, "word " * 40 + "?"]
    assert [has(reply) + lacks(reply) for reply in replies] == [1.0] * len(replies)
    assert {has(reply) for reply in replies} == {0.0, 1.0}


def test_a_short_reply_has_at_most_so_many_words() -> None:
    most = " ".join(["word"] * properties.SHORT_WORDS)
    assert properties.short(most) == 1.0
    assert properties.short(f"{most} more") == 0.0


def test_a_move_is_paired_by_situation() -> None:
    """Every situation moves by +1/4 whatever its level: the interval has no width."""
    before = Counts((0, 1, 2, 3), (4, 4, 4, 4))
    after = Counts((1, 2, 3, 4), (4, 4, 4, 4))
    found = move(before, after)
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((0.25, 0.25, 0.25))


def test_a_move_of_one_situation_is_within_chance() -> None:
    before = Counts((1, 1, 1, 1, 1, 1), (4,) * 6)
    after = Counts((4, 1, 1, 1, 1, 0), (4,) * 6)
    found = move(before, after)
    assert found.value == pytest.approx(2 / 24)
    assert found.ci_low < 0 < found.ci_high


def test_a_situation_without_a_reply_leaves_the_others() -> None:
    before = Counts((2,) * 9 + (0,), (4,) * 9 + (0,))
    found = move(before, Counts((4,) * 9 + (1,), (4,) * 9 + (1,)))
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((0.5, 0.5, 0.5))


def models(**shares: int) -> dict[str, Counts]:
    """Models with that many hits of 8 in each of 20 situations, one more and one less in turn."""
    return {
        name.replace("_", " "): Counts(tuple(hits + (-1) ** n for n in range(20)), (8,) * 20)
        for name, hits in shares.items()
    }


HELD = {"m1": 3, "m2": 5, "m3": 7, "dpo": 6, "m2_turned_around": 1, "m2_at_random": 3}


def test_all_claims_hold_where_the_planted_property_spreads() -> None:
    assert [claim.met for claim in claims(models(**HELD))] == [True] * 6


@pytest.mark.parametrize(
    ("change", "missed"),
    [
        ({"m2": 3}, ["m2: more than m1", "m2 at random: moves less than a third of +0.00"]),
        ({"m3": 5}, ["m3: more than m2"]),
        ({"m3": 2}, ["m3: more than m2", "m3: more than m1, beyond chance"]),
        ({"dpo": 3}, ["dpo: more than m1, beyond chance"]),
        ({"m2_turned_around": 3}, ["m2 turned around: less than m1, beyond chance"]),
        ({"m2_at_random": 4}, ["m2 at random: moves less than a third of +0.25"]),
        ({"m2_at_random": 2}, ["m2 at random: moves less than a third of +0.25"]),
    ],
)
def test_a_claim_that_does_not_hold_is_missed(change: dict[str, int], missed: list[str]) -> None:
    found = claims(models(**{**HELD, **change}))
    assert [claim.what for claim in found if not claim.met] == missed


def test_the_arms_differ_in_the_selector_only() -> None:
    arms = prove.configs(Property.short)
    selectors = {name: config.search.selector for name, config in arms.items()}
    assert selectors["planted"].function == "benchmarks.properties:short"
    assert selectors["turned around"].function == "benchmarks.properties:no_short"
    assert selectors["at random"].random
    same = selectors["planted"]
    others = {
        config.model_copy(
            update={"search": config.search.model_copy(update={"selector": same})}
        ).model_dump_json()
        for config in arms.values()
    }
    assert len(others) == 1
