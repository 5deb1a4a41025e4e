"""Mixing: sizes by weight, blends that lose no turn, shares of instruction data."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_core.config import InstructionsConfig
from sage_core.errors import DataError
from sage_core.mixture import blend, draw, read_instructions, with_instructions
from sage_core.schema import Dialogue, Message, TrainingDialogue, with_roles


def corpus(name: str, size: int) -> list[Dialogue]:
    return [Dialogue(f"{name}{n}", name, f"{name}{n}", with_roles("ab")) for n in range(size)]


def training(name: str, size: int, turns: int = 2) -> list[TrainingDialogue]:
    return [
        TrainingDialogue(with_roles(f"{name} {number} {turn}" for turn in range(turns)))
        for number in range(size)
    ]


@pytest.mark.parametrize(
    ("sizes", "weights", "expected"),
    [
        ((10, 20), (0, 0), (10, 20)),  # no weights: all
        ((10, 20), (1, 1), (10, 10)),  # the scarcer one gives the size
        ((10, 20), (1, 3), (7, 20)),  # 20 / 3 = 6.67 a unit of weight
        ((10, 20, 5), (2, 2, 0), (10, 10, 5)),  # a corpus without a weight is used whole
        ((0, 20), (1, 1), (0, 0)),
    ],
)
def test_sizes_follow_the_weights(
    sizes: tuple[int, ...], weights: tuple[float, ...], expected: tuple[int, ...]
) -> None:
    corpora = [corpus(name, size) for name, size in zip("abc", sizes, strict=False)]
    drawn = draw(corpora, weights, 0)
    assert len(set(drawn)) == len(drawn)
    names = [dialogue.source for dialogue in drawn]
    assert tuple(names.count(name) for name, _ in zip("abc", sizes, strict=False)) == expected
    assert draw(corpora, weights, 0) == drawn
    if sum(expected) > 2:
        assert draw(corpora, weights, 1) != drawn


def test_one_corpus_stays_as_it_is() -> None:
    rows = corpus("a", 5)
    assert draw([rows], [0.0], 0) == rows


@given(st.integers(0, 30), st.floats(0, 1), st.integers(0, 3))
def test_a_blend_joins_whole_dialogues_and_loses_no_turn(
    size: int, share: float, seed: int
) -> None:
    dialogues = training("d", size, turns=4)
    mixed = blend(dialogues, share, seed)
    pairs = int(share * size) // 2
    assert len(mixed) == size - pairs
    assert (
        sorted(len(dialogue.messages) for dialogue in mixed)
        == [4] * (size - 2 * pairs) + [8] * pairs
    )
    said = [message for dialogue in mixed for message in dialogue.messages]
    assert sorted(m.content for m in said) == sorted(
        m.content for dialogue in dialogues for m in dialogue.messages
    )
    for dialogue in mixed:
        assert [m.role for m in dialogue.messages] == ["user", "assistant"] * (
            len(dialogue.messages) // 2
        )


@given(st.lists(st.booleans(), max_size=20), st.integers(0, 3))
def test_a_blend_alternates_whoever_opens(openings: list[bool], seed: int) -> None:
    """Only where both of a pair are opened by the assistant is one turn lost."""
    dialogues = [
        TrainingDialogue(with_roles(f"{number} {turn}" for turn in range(6))[1 if opens else 2 :])
        for number, opens in enumerate(openings)
    ]
    mixed = blend(dialogues, 1, seed)
    pairs = len(openings) // 2
    assert len(mixed) == len(openings) - pairs
    for dialogue in mixed:
        roles = [message.role for message in dialogue.messages]
        assert all(a != b for a, b in pairwise(roles))
        assert roles[-1] == "assistant"
    lost = sum(len(d.messages) for d in dialogues) - sum(len(d.messages) for d in mixed)
    paired = sum(openings) - any(
        d.messages[0].role == "assistant" and d in dialogues for d in mixed
    )
    assert lost == max(0, paired - pairs)


@pytest.mark.parametrize(("share", "expected"), [(0, 0), (0.2, 10), (0.5, 40), (0.9, 60)])
def test_instructions_are_a_share_of_all(share: float, expected: int) -> None:
    dialogues, instructions = training("d", 40), training("i", 60)
    mixed = with_instructions(dialogues, instructions, share, 0)
    assert len(mixed) == 40 + expected
    assert set(dialogues) <= set(mixed)


def test_instructions_are_read_without_a_last_question(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    turns = [("user", "2 + 2?"), ("assistant", "4"), ("user", "thanks")]
    rows = [{"role": role, "content": text} for role, text in turns]
    path.write_text(json.dumps({"messages": rows}) + "\n", encoding="utf-8")
    (found,) = read_instructions(InstructionsConfig(input=path))
    assert found == TrainingDialogue(with_roles(["2 + 2?", "4"]))


@pytest.mark.parametrize("reader", ["messages", "sharegpt", "hf"])
def test_instructions_keep_an_opening_of_the_assistant(tmp_path: Path, reader: str) -> None:
    lists, role, content = (
        ("conversations", "from", "value")
        if reader == "sharegpt"
        else ("messages", "role", "content")
    )
    turns = [("assistant", "Ask me."), ("user", "2 + 2?"), ("assistant", "4"), ("user", "thanks")]
    rows = [{role: speaker, content: text} for speaker, text in turns]
    alone = {lists: rows[:1]}  # an opening that nobody answers is of no use
    path = tmp_path / "tasks.jsonl"
    path.write_text(
        "".join(json.dumps(each) + "\n" for each in ({lists: rows}, alone)), encoding="utf-8"
    )
    config = InstructionsConfig(reader=reader, input=tmp_path if reader == "hf" else path)  # type: ignore[arg-type]
    (found,) = read_instructions(config)
    assert found == TrainingDialogue(tuple(Message(*turn) for turn in turns[:3]))


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_instructions_without_an_exchange_are_an_error(tmp_path: Path, role: str) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps({"messages": [{"role": role, "content": "hi"}]}) + "\n")
    with pytest.raises(DataError, match=r"tasks\.jsonl.*'messages'"):
        read_instructions(InstructionsConfig(input=path))
