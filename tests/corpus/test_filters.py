"""The corpus rules on tiny texts: which rule drops a dialogue, and exactly where its border is."""

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_core.config.corpus import CorpusConfig
from sage_core.config.loading import validate_config
from sage_core.corpus.filters import across, filters
from sage_core.corpus.rules import ACROSS, RULES, offensive, sentiment
from sage_core.corpus.rules.frequent_word import FREQUENT_WORDS
from sage_core.corpus.rules.repeated_word import most_repeats
from sage_core.corpus.rules.words import mean_words
from sage_core.corpus.sources import read, sources
from sage_core.corpus.span import longest_run
from sage_core.errors import ConfigError, DataError
from sage_core.schema import Dialogue, Message, with_roles


def dialogue(*utterances: str) -> Dialogue:
    return Dialogue("d", "test", "thread", with_roles(utterances))


def conversations() -> list[Dialogue]:
    """The packaged ones."""
    config = CorpusConfig()
    (source,) = sources(config)
    return [row for row in read(source, config) if isinstance(row, Dialogue)]


def words(count: int, end: str = "") -> str:
    return " ".join(["word"] * count) + end


def compound_of(text: str) -> float:
    """A stand-in for VADER: the number at the end of the text."""
    return float(text.split()[-1])


def scored(*scores: float) -> Dialogue:
    return dialogue(*(f"some words {score}" for score in scores))


def reason(given: Dialogue, rules: tuple[str, ...] | str, **settings: object) -> str | None:
    config = CorpusConfig.model_validate({"rules": rules, **settings})
    return next((rule.name for rule in filters(config) if not rule.keeps(given)), None)


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
def test_every_turn_must_be_over_the_sentiment(
    monkeypatch: pytest.MonkeyPatch, scores: tuple[float, ...], kept: bool
) -> None:
    monkeypatch.setattr(sentiment, "analyser", lambda: compound_of)
    (rule,) = filters(CorpusConfig(rules=("sentiment",)))
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
    """And stopping at the first failing rule keeps what applying all of them keeps."""
    dialogues = conversations()[:150]
    settings = {"min_turns": 2, "min_mean_words": 4, "max_words": 400, "min_sentiment": -1}
    config = CorpusConfig.model_validate({"rules": "all", **settings})
    rules = filters(config)
    applied = [[rule.keeps(row) for rule in rules] for row in dialogues]
    kept = [row for row, results in zip(dialogues, applied, strict=True) if all(results)]
    assert 0 < len(kept) < 150
    draw = Random(0)
    for _ in range(10):
        order = draw.sample(rules, len(rules))
        assert [row for row in dialogues if all(rule.keeps(row) for rule in order)] == kept


def test_an_unknown_rule_is_answered_with_those_there_are() -> None:
    expected = r"corpus\.rules = .*'lenght'.*paper, dialogpt, all.*near_duplicate, or your own"
    with pytest.raises(ConfigError, match=expected):
        validate_config({"corpus": {"rules": ["turns", "lenght"]}})


def test_rule_sets() -> None:
    def names(rules: str) -> list[str]:
        return [rule.name for rule in filters(CorpusConfig.model_validate({"rules": rules}))]

    paper = ["turns", "question", "words", "sentiment"]
    dialogpt = [
        "frequent_word", "markup", "max_words", "offensive", "repeated_word", "subreddit", "url"
    ]  # fmt: skip
    assert names("paper") == paper
    assert sorted(names("dialogpt")) == dialogpt
    assert sorted(names("all")) == sorted((*paper, *dialogpt))
    assert names("all")[-1] == "sentiment"
    sets = {name for name, entry in RULES.table.items() if isinstance(entry, tuple)}
    rules_in_all = [rule.name for rule in RULES.resolve("all")]
    assert sorted(rules_in_all) == sorted(set(RULES.names) - sets)
    for rules, expected in (("paper", []), ("dialogpt", []), ("all", list(ACROSS))):
        assert across(CorpusConfig.model_validate({"rules": rules})) == expected


def test_duplicate_rules_come_after_all_others() -> None:
    config = CorpusConfig(rules=("near_duplicate", "url", "exact_duplicate", "turns"))
    assert [rule.name for rule in filters(config)] == ["url", "turns"]
    assert across(config) == ["exact_duplicate", "near_duplicate"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see https://example.org/a", "url"),
        ("see HTTP://example.org", "url"),
        ("(www.example.org)", "url"),
        ("awww. so cute, httpd is a server", None),
        ("example.org", None),
    ],
)
def test_url(text: str, expected: str | None) -> None:
    assert reason(dialogue("fine", text), ("url",)) == expected


@pytest.mark.parametrize(("text", "expected"), [("a [b", "markup"), ("]", "markup"), ("(a)", None)])
def test_markup(text: str, expected: str | None) -> None:
    assert reason(dialogue("fine", text), ("markup",)) == expected


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ("", 0),
        ("... - !", 0),
        ("no", 1),
        ("no yes no", 1),
        ("no no", 2),
        ("No, no. NO!", 3),
        ("well ha ha - ha yes", 3),
        ("ha haha ha", 1),
        ("can't can't cant", 2),
        ("a a b b b c c", 3),
        ("ß SS ss", 3),
    ],
)
def test_repeated_word(text: str, repeats: int) -> None:
    assert most_repeats(text) == repeats
    given = dialogue("fine", text)
    assert reason(given, ("repeated_word",)) == ("repeated_word" if repeats > 2 else None)
    if repeats > 1:
        assert reason(given, ("repeated_word",), max_repeats=repeats) is None
        assert reason(given, ("repeated_word",), max_repeats=repeats - 1) == "repeated_word"


def test_a_word_is_repeated_within_a_turn_only() -> None:
    assert reason(dialogue("no no", "no no"), ("repeated_word",)) is None


@pytest.mark.parametrize(
    ("utterances", "expected"),
    [
        (("Guten Morgen", "schönen Tag"), "frequent_word"),
        (("Guten Morgen", "AND you?"), None),
        (("theory, butter", "within"), "frequent_word"),  # inside of words
        (("I'm late",), None),
        ((), "frequent_word"),
    ],
)
def test_a_frequent_word(utterances: tuple[str, ...], expected: str | None) -> None:
    assert reason(dialogue(*utterances), ("frequent_word",)) == expected


def test_there_are_fifty_frequent_words() -> None:
    assert len(set(FREQUENT_WORDS.split())) == 50
    assert all(reason(dialogue(w), ("frequent_word",)) is None for w in FREQUENT_WORDS.split())


@pytest.mark.parametrize(
    ("counts", "expected"), [((200,), None), ((150, 50), None), ((150, 51), "max_words")]
)
def test_max_words_are_those_of_the_whole_dialogue(
    counts: tuple[int, ...], expected: str | None
) -> None:
    given = dialogue(*map(words, counts))
    assert reason(given, ("max_words",)) == expected
    assert reason(given, ("max_words",), max_words=sum(counts) - 1) == "max_words"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("nazi", "subreddit"),
        ("r/Nazi", "subreddit"),
        ("/r/NAZI", "subreddit"),
        ("history", None),
        ("# Subreddits", None),
        ("", None),
        ("Mine", "subreddit"),
        ("r/mine", "subreddit"),
        ("mine2", None),
    ],
)
def test_subreddit(source: str, expected: str | None) -> None:
    given = Dialogue("d", source, "t", with_roles(["hi"]))
    assert reason(given, ("subreddit",), blocked_sources=("r/MINE",)) == expected


def test_offensive_language_is_whole_words_in_any_case() -> None:
    rules = ("offensive",)
    assert reason(dialogue("fine", "You BASTARD!"), rules) == "offensive"
    assert reason(dialogue("a  camel\ntoe"), rules) == "offensive"  # a phrase of the list
    assert reason(dialogue("an assessment of the classic"), rules) is None
    assert reason(dialogue("camel", "toe"), rules) is None  # not across turns


def test_the_users_own_phrases_come_on_top(tmp_path: Path) -> None:
    path = tmp_path / "phrases.txt"
    path.write_text("# a comment\n\nDarn\n  rotten   egg \na.c\n", "utf-8")
    for text, expected in [
        ("darn!", "offensive"),
        ("you ROTTEN egg", "offensive"),
        ("the a.c broke", "offensive"),
        ("abc darned rotten eggs a comment", None),
        ("you bastard", "offensive"),
    ]:
        assert reason(dialogue(text), ("offensive",), blocked_phrases=path) == expected
    assert reason(dialogue("darn"), ("offensive",)) is None
    path.write_text("heck", "utf-8")  # an edited file counts at once
    assert reason(dialogue("darn"), ("offensive",), blocked_phrases=path) is None
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(DataError, match=r"phrases\.txt"):
        reason(dialogue("darn"), ("offensive",), blocked_phrases=path)
    with pytest.raises(ConfigError, match=r"none\.txt"):
        reason(dialogue("darn"), ("offensive",), blocked_phrases=tmp_path / "none.txt")


@given(
    st.lists(st.text("ab .", max_size=4), max_size=5),
    st.lists(st.sampled_from(["a", "b", "ab", "ba", " ", "  ", ".", "A"]), max_size=8).map("".join),
)
def test_the_matcher_finds_what_a_search_for_each_phrase_finds(
    phrases: list[str], text: str
) -> None:
    def holds(phrase: str) -> bool:
        """By trying all places of the text with single blanks."""
        plain = " ".join(text.lower().split())
        phrase = " ".join(phrase.split())
        return bool(phrase) and any(
            plain.startswith(phrase, start)
            and not plain[start - 1 : start].isalpha()
            and not plain[start + len(phrase) : start + len(phrase) + 1].isalpha()
            for start in range(len(plain))
        )

    assert offensive.matcher(phrases)(text) == any(map(holds, phrases))


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
    """Where the turns are those of two people: neither of them is the assistant."""
    run = longest_run(scored(0, 1, 1, 0), 0.4, 2, compound_of)
    assert run is not None
    assert [message.role for message in run.messages] == ["user", "assistant"]


@pytest.mark.parametrize(("opens", "expected"), [(0, (1, 3)), (1, (1, 3)), (1, (0, 2))])
def test_longest_run_keeps_the_roles_of_a_record(opens: int, expected: tuple[int, int]) -> None:
    scores = [float(expected[0] <= turn < expected[1]) for turn in range(4)]
    turns = with_roles(f"turn {number}" for number in range(opens + 4))[opens:]
    messages = tuple(
        Message(turn.role, f"{turn.content} {score}")
        for turn, score in zip(turns, scores, strict=True)
    )
    run = longest_run(Dialogue("d", "test", "t", messages, has_roles=True), 0.4, 2, compound_of)
    assert run is not None
    assert run.messages == messages[slice(*expected)]
    assert run.has_roles


def test_longest_run_scores_no_turn_twice_and_skips_what_cannot_matter() -> None:
    """Windows of four that end in a failing turn are left after one look each."""
    seen: list[str] = []

    def counting(text: str) -> float:
        seen.append(text)
        return compound_of(text)

    given = dialogue(*(f"turn {index} {float(index % 4 != 3)}" for index in range(16)))
    assert longest_run(given, 0.4, 4, counting) is None
    assert seen == [f"turn {index} 0.0" for index in (3, 7, 11, 15)]
