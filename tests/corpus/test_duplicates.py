"""Planted duplicates are found, other dialogues are not."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.duplicates import Duplicates
from sage_core.corpus.rules.exact_duplicate import exact_key
from sage_core.corpus.rules.near_duplicate import MAX_MISSED, bands, jaccard, shingles
from sage_core.corpus.sources import read, sources
from sage_core.schema import Dialogue, with_roles

BOTH = ("exact_duplicate", "near_duplicate")


def dialogue(*utterances: str) -> Dialogue:
    return Dialogue("d", "test", "thread", with_roles(utterances))


def conversations() -> list[Dialogue]:
    """The packaged ones."""
    config = CorpusConfig()
    (source,) = sources(config)
    return [row for row in read(source, config) if isinstance(row, Dialogue)]


def reasons(
    dialogues: list[Dialogue], rules: tuple[str, ...] = BOTH, similarity: float = 0.8
) -> list[str | None]:
    config = CorpusConfig(rules=rules, near_duplicate_similarity=similarity)
    duplicates = Duplicates(config)
    return [duplicates.reason(given) for given in dialogues]


def numbered(first: int, count: int) -> Dialogue:
    """``count`` different words: ``count - 4`` shingles."""
    return dialogue(" ".join(f"w{number}" for number in range(first, first + count)))


def test_exact_duplicates_may_differ_in_case_and_white_space_only() -> None:
    given = [
        dialogue("Hello  there", "Hi!"),
        dialogue("hello there ", "\tHI!"),
        dialogue("hello there hi!"),
        dialogue("hello there", "hi"),
    ]
    assert reasons(given, ("exact_duplicate",)) == [None, "exact_duplicate", None, None]


def test_near_duplicates_from_the_border_on() -> None:
    """Words 0-103 and 0-93: 100 and 90 shingles, 90 shared: 0.9 exactly."""
    given = [numbered(0, 104), numbered(0, 94)]
    assert jaccard(*map(shingles, given)) == 0.9
    assert reasons(given, similarity=0.9) == [None, "near_duplicate"]
    assert reasons(given, similarity=0.901) == [None, None]
    assert reasons(given[::-1], similarity=0.9) == [None, "near_duplicate"]


def test_short_dialogues_are_one_shingle() -> None:
    assert [len(shingles(numbered(0, count))) for count in (0, 1, 4, 5, 6, 9)] == [1, 1, 1, 1, 2, 5]
    given = [dialogue("hi", "you"), dialogue("hi you"), dialogue("hi", "there")]
    assert reasons(given) == [None, "near_duplicate", None]
    assert jaccard(shingles(given[0]), shingles(given[2])) == 0


def test_only_the_configured_rules_are_at_work_and_exact_comes_first() -> None:
    given = [numbered(0, 60), numbered(0, 60), numbered(0, 58)]
    assert reasons(given, ("turns",)) == [None, None, None]
    assert reasons(given, ("exact_duplicate",)) == [None, "exact_duplicate", None]
    assert reasons(given, ("near_duplicate",)) == [None, "near_duplicate", "near_duplicate"]
    assert reasons(given, BOTH[::-1]) == [None, "exact_duplicate", "near_duplicate"]


def test_a_dropped_dialogue_is_not_remembered() -> None:
    """The third is near the dropped second, but not near the kept first."""
    given = [numbered(0, 104), numbered(10, 104), numbered(20, 104)]
    similarity = jaccard(*map(shingles, given[:2]))
    assert jaccard(shingles(given[0]), shingles(given[2])) < similarity
    assert reasons(given, similarity=similarity) == [None, "near_duplicate", None]


def test_planted_copies_among_real_dialogues() -> None:
    """Each near copy has one word more in a dialogue long enough for five shingles to be few."""
    real = [row for row in conversations()[:700] if len(shingles(row)) >= 100]
    first = reasons(real)
    kept = [row for row, reason in zip(real, first, strict=True) if reason is None]
    assert len(kept) > 200
    draw = Random(0)
    near = []
    for row in kept[:60]:
        texts = [message.content for message in row.messages]
        turn = draw.randrange(len(texts))
        texts[turn] = f"{texts[turn]} indeed"
        near.append(dialogue(*texts))
    exact = kept[60:120]
    found = reasons([*kept, *near, *exact])
    assert found[: len(kept)] == [None] * len(kept)
    assert found[len(kept) :] == ["near_duplicate"] * 60 + ["exact_duplicate"] * 60
    # By trying all pairs, at a lower border: what is dropped has a partner among the kept.
    few = kept[:80] + near[:20]
    dropped = reasons(few, ("near_duplicate",), similarity=0.3)
    sets = [shingles(row) for row in few]
    kept_sets: list[int] = []
    for number, reason in enumerate(dropped):
        best = max((jaccard(sets[number], sets[other]) for other in kept_sets), default=0.0)
        assert (reason == "near_duplicate") == (best >= 0.3)
        if reason is None:
            kept_sets.append(number)


@given(
    st.lists(st.sampled_from(["a b c d e f", "a b c d e g", "A  b", "a b", "c", ""]), max_size=8)
)
def test_the_kept_have_different_keys_and_are_the_first_of_their_kind(texts: list[str]) -> None:
    given = [dialogue(text) for text in texts]
    found = reasons(given, ("exact_duplicate",))
    keys = [exact_key(row) for row in given]
    expected = [None if keys.index(key) == i else "exact_duplicate" for i, key in enumerate(keys)]
    assert found == expected


@pytest.mark.parametrize("similarity", [0.07, 0.1, 0.3, 0.5, 0.8, 0.95, 1.0])
def test_pairs_at_the_border_are_found(similarity: float) -> None:
    count, rows = bands(similarity)
    assert count >= 2
    assert (1 - similarity**rows) ** count <= MAX_MISSED
