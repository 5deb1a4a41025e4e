"""Topics are words of the dialogue."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_core.topics import extract, stand_in, words_of


def test_topics_are_the_telling_words_of_each_utterance() -> None:
    found = extract(
        [
            ["I took my dog to the lake!", "That's so cool :) really", "How cold is the lake?"],
            ["My roommate's dog is at home.", "I love peanut butter, it's the best"],
        ],
        2,
    )
    assert found[:3] == [("dog", "lake"), ("dog", "lake"), ("lake", "cold")]
    assert found[3:] == [("roommate", "home"), ("peanut butter",)]


def test_a_corpus_without_topics_has_none() -> None:
    assert extract([["Yes!", ":)"], ["I know"]], 2) == [(), (), ()]
    assert extract([], 2) == []


DASH, APOSTROPHE = chr(0x2013), chr(0x2019)
SAMPLES = f"the a my dog's Dog bus {DASH} stop, butter-cup I{APOSTROPHE}m to run love 12 . Ünï"
WORDS = st.sampled_from([*SAMPLES.split(), "\n"])


@given(st.lists(st.lists(st.lists(WORDS).map(" ".join), max_size=3), max_size=3), st.integers(1, 3))
def test_topics_stand_in_the_utterance_or_before_it(dialogues: list[list[str]], most: int) -> None:
    topics = iter(extract(dialogues, most))
    for dialogue in dialogues:
        said: frozenset[str] = frozenset()
        before: tuple[str, ...] = ()
        for utterance in dialogue:
            found = next(topics)
            assert len(found) <= most
            said |= words_of(utterance)
            used = [word for topic in found for word in topic.split()]
            assert len(used) == len(set(used))
            assert set(used) <= said
            assert found == before or set(used) <= words_of(utterance)
            before = found


@pytest.mark.parametrize(
    ("topics", "texts", "kept"),
    [
        (("jazz", "Bus stops"), ("The bus stopped.",), ("Bus stops",)),
        (("jazz",), ("No.", "Do you like Jazz?"), ("jazz",)),
        (("the past", "my dog's"), ("the dog",), ("my dog's",)),  # a stop word alone is nothing
        ((), ("x",), ()),
        (("x",), (), ()),
    ],
)
def test_stand_in(topics: tuple[str, ...], texts: tuple[str, ...], kept: tuple[str, ...]) -> None:
    assert stand_in(topics, *texts) == kept
