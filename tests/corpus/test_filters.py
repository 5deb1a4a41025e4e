"""The corpus rules on tiny texts: which rule drops a dialogue, and exactly where its border is."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_core.config import CorpusConfig
from sage_core.corpus.build import SPAN_STEP, filter_dialogues
from sage_core.corpus.filters import filters, longest_run, mean_words
from sage_core.corpus.sentiment import analyser
from sage_core.errors import ConfigError
from sage_core.schema import Dialogue, Rejection, with_roles


def dialogue(*utterances: str) -> Dialogue:
    return Dialogue("d", "test", "thread", with_roles(utterances))


def words(count: int, end: str = "") -> str:
    return " ".join(["word"] * count) + end


def compound_of(text: str) -> float:
    """A stand-in for VADER: the number at the end of the text."""
    return float(text.split()[-1])


def scored(*scores: float) -> Dialogue:
    return dialogue(*(f"some words {score}" for score in scores))


def reason(given: Dialogue, rules: tuple[str, ...] | str, **settings: float) -> str | None:
    config = CorpusConfig.model_validate({"rules": rules, **settings})
    rejected = filter_dialogues([given], config).rejected
    return rejected[0].reason if rejected else None


@pytest.mark.parametrize(("turns", "expected"), [(4, "turns"), (5, None), (6, None)])
def test_turns_must_be_more_than_four(turns: int, expected: str | None) -> None:
    assert reason(dialogue(*["hi"] * turns), ("turns",)) == expected


@pytest.mark.parametrize(
    ("utterances", "expected"),
    [
        (("How are you?", "Well."), None),
        (("Well.", "And you? \n"), None),
        (("Are you? I see.", "Yes! Or? No."), "question"),
        (("?!", "."), "question"),
        ((), "question"),
    ],
)
def test_one_turn_must_end_in_a_question_mark(
    utterances: tuple[str, ...], expected: str | None
) -> None:
    assert reason(dialogue(*utterances), ("question",)) == expected


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((15, 15), "words"),  # exactly 15
        ((10, 20), "words"),  # a mean of exactly 15
        ((10, 21), None),  # 15.5
        ((14, 15, 16, 16), None),  # 15.25
    ],
)
def test_mean_words_must_be_over_fifteen(counts: tuple[int, ...], expected: str | None) -> None:
    given = dialogue(*map(words, counts))
    assert mean_words(given) == sum(counts) / len(counts)
    assert reason(given, ("words",)) == expected


@pytest.mark.parametrize(
    ("scores", "kept"),
    [((0.5, 0.41), True), ((0.5, 0.4), False), ((0.9, -0.9), False), ((0.4001,), True)],
)
def test_every_turn_must_be_over_the_sentiment(scores: tuple[float, ...], kept: bool) -> None:
    (rule,) = filters(CorpusConfig(rules=("sentiment",)), compound_of)
    assert rule.name == "sentiment"
    assert rule.keeps(scored(*scores)) is kept


def test_sentiment_with_vader() -> None:
    cheerful = dialogue("I love this, it is wonderful!", "So great, I am happy for you!")
    assert reason(cheerful, ("sentiment",)) is None
    mixed = dialogue("I love this, it is wonderful!", "The bus leaves at nine.")
    assert reason(mixed, ("sentiment",)) == "sentiment"


def test_the_first_failing_rule_in_the_configured_order_is_the_reason() -> None:
    short = dialogue("No.", "No.")  # fails turns, question, words and sentiment
    assert reason(short, "paper") == "turns"
    assert reason(short, ("words", "turns")) == "words"
    assert reason(short, ("sentiment", "question")) == "sentiment"
    assert reason(short, ()) is None


def test_the_order_of_rules_does_not_change_what_is_kept() -> None:
    dialogues = [
        dialogue("a?", "b"),
        dialogue(words(16, "?"), words(16)),
        dialogue(*[words(20)] * 5),
        dialogue(*[words(20, "?")] * 5),
    ]
    rules = ("turns", "question", "words")
    kept = {
        order: filter_dialogues(dialogues, CorpusConfig(rules=order)).kept
        for order in (rules, rules[::-1], ("question", "words", "turns"))
    }
    assert set(kept.values()) == {(dialogues[3],)}


def test_an_unknown_rule_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"\['lenght'\].*'question', 'sentiment', 'turns'"):
        filters(CorpusConfig(rules=("turns", "lenght")))


def brute_force(positive: list[bool], min_turns: int) -> tuple[int, int] | None:
    """Start and end of the first longest run of at least ``min_turns``, by trying all."""
    best: tuple[int, int] | None = None
    for start in range(len(positive)):
        for end in range(start + min_turns, len(positive) + 1):
            longer = best is None or end - start > best[1] - best[0]
            if all(positive[start:end]) and longer:
                best = (start, end)
    return best


@given(
    st.lists(st.sampled_from([0.4, 0.41, 0.9, 0.8, 0.7, -0.2]), max_size=24),
    st.integers(min_value=1, max_value=6),
)
def test_longest_run_is_that_of_brute_force(scores: list[float], min_turns: int) -> None:
    given = dialogue(*(f"turn {index} {score}" for index, score in enumerate(scores)))
    found = longest_run(given, 0.4, min_turns, compound_of)
    expected = brute_force([score > 0.4 for score in scores], min_turns)
    if expected is None:
        assert found is None
    else:
        assert found is not None
        texts = [message.content for message in given.messages]
        assert found.messages == with_roles(texts[slice(*expected)])
        assert (found.dialogue_id, found.thread_id) == (given.dialogue_id, given.thread_id)


def test_longest_run_starts_with_the_user_again() -> None:
    run = longest_run(scored(0, 1, 1, 0), 0.4, 2, compound_of)
    assert run is not None
    assert [message.role for message in run.messages] == ["user", "assistant"]


def test_longest_run_scores_no_turn_twice_and_skips_what_cannot_matter() -> None:
    """Windows of four that end in a failing turn are left after one look each."""
    seen: list[str] = []

    def counting(text: str) -> float:
        seen.append(text)
        return compound_of(text)

    given = dialogue(*(f"turn {index} {float(index % 4 != 3)}" for index in range(16)))
    assert longest_run(given, 0.4, 4, counting) is None
    assert seen == [f"turn {index} 0.0" for index in (3, 7, 11, 15)]


def test_a_dialogue_without_a_run_is_dropped_by_the_span() -> None:
    given = dialogue(*["The bus leaves at nine."] * 6)
    corpus = filter_dialogues([given], CorpusConfig(span="longest_run"))
    assert corpus.rejected == (Rejection("d", SPAN_STEP),)


@pytest.mark.parametrize(
    "text",
    [
        "I love this, it is GREAT!!!",
        "not bad at all :)",
        "This is the worst day of my life.",
        "The bus leaves at nine.",
        "",
        "kind of ok, but the food was terrible, but the view was amazing",
    ],
)
def test_sentiment_is_nltks(text: str) -> None:
    from nltk.sentiment.vader import SentimentIntensityAnalyzer

    compound: Callable[[str], float] = analyser()
    score = compound(text)
    reference = SentimentIntensityAnalyzer(lexicon_file="vader_lexicon.txt")
    assert score == reference.polarity_scores(text)["compound"]
    assert -1 <= score <= 1


def test_sentiment_has_the_signs_one_expects() -> None:
    compound = analyser()
    assert compound("I love this, it is great!") > 0.4
    assert compound("I hate this, it is awful!") < -0.4
    assert compound("The bus leaves at nine.") == 0
