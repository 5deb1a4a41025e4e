"""Annotation from closed lists: what is asked, how scores are calibrated, what is chosen."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_engine import ScriptedEngine

from sage_core.config.annotation import AnnotationConfig
from sage_core.config.loading import load_config
from sage_core.conversation import of_annotated
from sage_core.engines.base import Request
from sage_core.errors import ConfigError, DataError
from sage_core.labels import calibrated, check, pick, score, score_situations
from sage_core.schema import Dialogue, ScoredDialogue, ScoredTurn, Situation, with_roles

EMOTIONS = ("sad", "joyful", "proud")
MOTIVATIONS = ("sharing", "question")
SETTINGS = AnnotationConfig(
    method="score", topics="extracted", motivations=MOTIVATIONS, emotions=EMOTIONS, context_turns=0
)


def dialogue(name: str, *utterances: str) -> Dialogue:
    return Dialogue(name, "test", name, with_roles(utterances))


def scored(*rows: tuple[Sequence[float], Sequence[float]]) -> list[ScoredDialogue]:
    turns = tuple(
        ScoredTurn("assistant" if n % 2 else "user", f"say {n}", tuple(m), tuple(e))
        for n, (m, e) in enumerate(rows)
    )
    return [ScoredDialogue("d", turns)]


def test_a_common_value_no_longer_wins_everywhere() -> None:
    """sad is the likeliest after every utterance; over the mean, -2, -4 and -5, the rows are
    +1 -1 0, 0 -1 +1 and -1 +2 -1."""
    rows = [(-1.0, -5.0, -5.0), (-2.0, -5.0, -4.0), (-3.0, -2.0, -6.0)]
    picked = pick(scored(*(((0.0, float(n)), row) for n, row in enumerate(rows))), SETTINGS)
    assert [turn.emotion for turn in picked[0].turns] == ["sad", "proud", "joyful"]
    # The second motivation's mean is 1: the first leads before it, and they are level at it.
    assert [turn.motivation for turn in picked[0].turns] == ["sharing", None, "question"]


def test_values_within_the_margin_are_left_empty() -> None:
    rows = [((0.0, 0.0), (0.0, 0.0, 3.0)), ((0.0, 0.0), (1.0, 0.0, 0.0)), ((0.0, 0.0), (0.0,) * 3)]
    margin = SETTINGS.model_copy(update={"margin": 1.5})
    for settings, last in ((SETTINGS, "joyful"), (margin, None)):
        turns = pick(scored(*rows), settings)[0].turns
        assert [turn.emotion for turn in turns[:1]] == ["proud"]
        assert turns[2].emotion == (None if last is None else "joyful")
        assert {turn.motivation for turn in turns} == {None}


def test_a_single_utterance_has_nothing_to_compare_with() -> None:
    (turn,) = pick(scored(((-1.0, -9.0), (-1.0, -2.0, -3.0))), SETTINGS)[0].turns
    assert (turn.motivation, turn.emotion) == (None, None)
    assert pick([], SETTINGS) == []


def test_a_corpus_of_one_sentiment_keeps_it_where_situations_are_the_measure() -> None:
    """Both utterances are joyful, the second less so; over their own mean nothing is ahead."""
    rows = [((0.0, 0.0), (-4.0, -1.0, -9.0)), ((0.0, 0.0), (-4.0, -2.0, -9.0))]
    situations = [(-2.0, -4.0, -9.0), (-4.0, -2.0, -5.0)]  # the mean: -3, -3, -7
    (own,), (compared,) = pick(scored(*rows), SETTINGS), pick(scored(*rows), SETTINGS, situations)
    assert [turn.emotion for turn in own.turns] == ["joyful", None]
    assert [turn.emotion for turn in compared.turns] == ["joyful", "joyful"]
    assert {turn.motivation for turn in compared.turns} == {None}


def test_situations_are_asked_about_as_utterances_are() -> None:
    asked: list[tuple[str, str]] = []

    def see(request: Request, option: str) -> float:
        asked.append((request.messages[-1].content, option))
        return by_words(request, option)

    engine = ScriptedEngine(lambda request, candidate: "", see)
    (row,) = score_situations([Situation("s", "so proud", "proud", "search")], engine, SETTINGS, 0)
    assert row == [2.0, 0.0, 3.0]
    assert asked[0] == ("so proud\n\nHow does this person feel?", " sad")


tables = st.integers(1, 6).flatmap(
    lambda rows: st.lists(
        st.lists(st.integers(-40, 0).map(float), min_size=3, max_size=3),
        min_size=rows,
        max_size=rows,
    )
)


@given(tables, st.lists(st.integers(-9, 9), min_size=3, max_size=3))
def test_how_common_a_value_is_does_not_matter(table: list[list[float]], common: list[int]) -> None:
    shifted = [[each + shift for each, shift in zip(row, common, strict=True)] for row in table]
    assert calibrated(shifted) == pytest.approx(calibrated(table))
    assert calibrated(table).mean(axis=0) == pytest.approx(np.zeros(3))


def test_a_missing_probability_is_an_error() -> None:
    with pytest.raises(DataError, match="no probability for some"):
        pick(scored(((0.0, 0.0), (0.0, float("-inf"), 0.0))), SETTINGS)


def by_words(request: Request, option: str) -> float:
    """A model that says sad most, and knows what a message is about from its own words."""
    told = request.messages[-1].content.count(option.strip())
    return 3.0 * told + (2.0 if option == " sad" else 0.0)


DIALOGUES = [
    dialogue("x", "I am joyful, a question", "so proud of my sharing"),
    dialogue("y", "sad sad sad", "my bus is late"),
    dialogue("z", "joyful, proud, proud", "sharing my bus"),
]


def test_shards_are_scored_on_their_own_and_chosen_together() -> None:
    engine = ScriptedEngine(lambda request, candidate: "", by_words)
    whole = score(DIALOGUES, engine, SETTINGS, 0)
    parts = [score([each], engine, SETTINGS, 0)[0] for each in reversed(DIALOGUES)]
    assert parts[::-1] == whole
    emotions = [[turn.emotion for turn in each.turns] for each in pick(whole, SETTINGS)]
    # The last of y says none: it is sad less than the mean, so it is left to the rarest value.
    assert [emotions[0][0], emotions[0][1], emotions[1][0], emotions[2][0]] == [
        "joyful", "proud", "sad", "proud",
    ]  # fmt: skip
    for each in pick(whole, SETTINGS):
        of_annotated(each)  # the format carries all of it
    assert [turn.topics for turn in pick(whole, SETTINGS)[1].turns][1] == ("bus",)


@pytest.mark.parametrize(
    ("context", "shown", "prefix"),
    [
        (0, "What is it?\n\nHow does this person feel?", "This person feels"),
        (1, "B: Guess!\nA: What is it?\n\nHow does A feel?", "A feels"),
    ],
)
def test_what_is_asked(context: int, shown: str, prefix: str) -> None:
    asked: dict[str, tuple[Request, set[str]]] = {}

    def see(request: Request, option: str) -> float:
        asked.setdefault(request.request_id, (request, set()))[1].add(option)
        return 0.0

    settings = SETTINGS.model_copy(update={"context_turns": context})
    engine = ScriptedEngine(lambda request, candidate: "", see)
    score([dialogue("x", "Hi", "Guess!", "What is it?")], engine, settings, 5)
    request, options = asked["annotate/x/2/emotion"]
    assert (request.messages[-1].content, request.prefix, request.seed) == (shown, prefix, 5)
    assert options == {f" {emotion}" for emotion in EMOTIONS}
    assert asked["annotate/x/2/motivation"][1] == {" sharing", " question"}
    # No earlier turn is shown with the first utterance, whatever the context.
    assert asked["annotate/x/0/emotion"][0].prefix == "This person feels"
    assert len(asked) == 6


def test_a_rewritten_utterance_is_the_one_scored() -> None:
    engine = ScriptedEngine(lambda request, candidate: "Better said.", by_words)
    (found,) = score(
        [dialogue("x", "wrs sed")], engine, SETTINGS.model_copy(update={"rewrite": True}), 0
    )
    assert [turn.utterance for turn in found.turns] == ["Better said."]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["annotation.emotions=[sad]"], "chooses from emotions; list two or more"),
        (["annotation.motivations=[]"], "chooses from motivations; list two or more"),
        (["annotation.emotions=[sad, proud, Sad]"], "chooses from emotions; list two or more"),
        (["annotation.topics=written"], "writes no topics; set topics to 'extracted'"),
        (["annotation.engine={kind: openai, model: m}"], "needs the probability of every value"),
    ],
)
def test_what_cannot_be_scored_is_said(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("demo", ["annotation.method=score", "annotation.topics=extracted", *overrides])


def test_values_that_the_format_cannot_carry_are_named() -> None:
    check(SETTINGS)
    listed: Any = SETTINGS.model_copy(update={"emotions": ("sad", "null", "{")})
    with pytest.raises(ConfigError, match=r"\['null', '\{'\], which State-Action Chain text"):
        check(listed)
