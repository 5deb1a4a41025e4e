"""The fast analyser against NLTK's own: equal to the last digit."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus import sentiment
from sage_core.corpus.sentiment import analyser, lexicon, reference
from sage_core.corpus.sources import read, sources
from sage_core.schema import Dialogue

compound = analyser()
nltks = reference()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "The bus leaves at nine.",
        "I love this, it is GREAT!!!",
        "not bad at all :)",
        "This is the worst day of my life.",
        "kind of ok, but the food was terrible, but the view was amazing",
        "It is kind of you to be kind",
        "They say he is kind of good",  # a bigram that dampens
        "yeah right, that was the bomb and the shit",
        "I never was so happy and never so good or this great",
        "at least good, very least good, least good",
        "good good GOOD but good!",
        "GOOD",
        "VERY good",
        "it was SO VERY good",
        "isn't good; ain't bad; couldn't love it?? ???",
        "!?!?good good!?!? !good! ?.good '' :D :-) ;) <3",
        "x: D a I good",
        "İstanbul ſo good",  # noqa: RUF001
        "Ω" * 50 + " good",
    ],
)
def test_is_nltks(text: str) -> None:
    assert compound(text) == nltks(text)
    assert -1 <= compound(text) <= 1


PHRASES = [*sentiment.IDIOMS, *sentiment.BOOSTERS, "at least", "very least", "never so", "so this"]
WORDS = st.one_of(
    st.sampled_from(sorted(lexicon())),
    st.sampled_from(sorted(lexicon())).map(str.upper),
    st.sampled_from(sorted(sentiment.NEGATIONS)),
    st.sampled_from(PHRASES),
    st.sampled_from(PHRASES).map(str.upper),
    st.sampled_from(
        "but But BUT kind of least never so this the bus Bus BUS a I s't no n't".split()  # noqa: SIM905
    ),
    st.sampled_from([":)", ":-(", ":D", "<3", "xD", "!", "?", "...", "!!!!!", "-good-", "(bad)"]),
    st.text(max_size=4),
)
PUNCTUATED = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "", "", "'", '"', "!", "("]),
        WORDS,
        st.sampled_from(["", "", "", ",", ".", "!", "??", "?!?", "!?!?", "):"]),
    ),
)


@given(st.lists(PUNCTUATED, max_size=12).map(" ".join))
@example("good kind of bad ass the shit")
@settings(max_examples=300, deadline=None)
def test_made_up_texts_have_nltks_score(text: str) -> None:
    assert compound(text) == nltks(text)


def test_real_utterances_have_nltks_score() -> None:
    """Every 20th of the packaged 138,737; the benchmark compares all of them."""
    config = CorpusConfig()
    (source,) = sources(config)
    dialogues = [row for row in read(source, config) if isinstance(row, Dialogue)]
    texts = [message.content for row in dialogues for message in row.messages][::20]
    assert len(texts) == 6937
    assert [text for text in texts if compound(text) != nltks(text)] == []


def test_word_lists_are_nltks() -> None:
    from nltk.sentiment.vader import SentimentIntensityAnalyzer, VaderConstants

    assert sentiment.BOOSTERS == VaderConstants.BOOSTER_DICT
    assert sentiment.IDIOMS == VaderConstants.SPECIAL_CASE_IDIOMS
    assert sentiment.NEGATIONS == VaderConstants.NEGATE
    assert set(VaderConstants.PUNC_LIST) == sentiment.PUNCTUATION
    assert VaderConstants.REGEX_REMOVE_PUNCTUATION.sub("", sentiment.string.punctuation) == ""
    for ours, name in (("DECREASE", "B_DECR"), ("CAPITALS", "C_INCR"), ("NEGATION", "N_SCALAR")):
        assert getattr(sentiment, ours) == getattr(VaderConstants, name)
    assert lexicon() == SentimentIntensityAnalyzer(lexicon_file="vader_lexicon.txt").lexicon


def test_what_is_kept_of_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentiment, "_WORDS_KEPT", 8)
    small = analyser.__wrapped__()
    texts = [f"word{number} good {'x' * number} not bad!" for number in range(60)]
    assert [small(text) for text in texts] == [nltks(text) for text in texts]
    assert len(small._tokens) <= 8


def test_signs_are_those_one_expects() -> None:
    assert compound("I love this, it is great!") > 0.4
    assert compound("I hate this, it is awful!") < -0.4
    assert compound("The bus leaves at nine.") == 0
