"""Mixing: sizes by weight, blends that lose no turn, shares of instruction data."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_core.config.conversation import ConversationConfig
from sage_core.config.mixture import InstructionsConfig
from sage_core.conversation import of_annotated, view
from sage_core.errors import DataError
from sage_core.mixture import blend, draw, read_instructions, training_text, with_instructions
from sage_core.schema import (
    AnnotatedDialogue,
    AnnotatedTurn,
    Dialogue,
    Message,
    TrainingDialogue,
    with_roles,
)


def corpus(name: str, size: int) -> list[Dialogue]:
    return [Dialogue(f"{name}{n}", name, f"{name}{n}", with_roles("ab")) for n in range(size)]


def training(name: str, size: int, turns: int = 2) -> list[TrainingDialogue]:
    return [
        TrainingDialogue(with_roles(f"{name} {number} {turn}" for turn in range(turns)))
        for number in range(size)
    ]


def annotated(name: str, turns: int) -> AnnotatedDialogue:
    return AnnotatedDialogue(
        name,
        tuple(
            AnnotatedTurn(message.role, message.content, None, "sad", ())
            for message in with_roles(f"{name} {turn}" for turn in range(turns))
        ),
    )


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
    dialogues = [annotated(f"d {number}", 4) for number in range(size)]
    mixed = blend(dialogues, share, seed)
    pairs = int(share * size) // 2
    assert len(mixed) == size - pairs
    assert (
        sorted(len(dialogue.turns) for dialogue in mixed) == [4] * (size - 2 * pairs) + [8] * pairs
    )
    said = [turn for dialogue in mixed for turn in dialogue.turns]
    assert sorted(turn.utterance for turn in said) == sorted(
        turn.utterance for dialogue in dialogues for turn in dialogue.turns
    )
    for dialogue in mixed:
        assert [turn.role for turn in dialogue.turns] == ["user", "assistant"] * (
            len(dialogue.turns) // 2
        )


@pytest.mark.parametrize(("turns", "left"), [(2, 2), (3, 2)])
def test_a_blend_keeps_the_speakers_alternating(turns: int, left: int) -> None:
    (mixed,) = blend([annotated("a", turns), annotated("b", turns)], 1.0, 0)
    assert len(mixed.turns) == left + turns
    roles = [turn.role for turn in mixed.turns]
    assert all(first != second for first, second in pairwise(roles))


@pytest.mark.parametrize(("turns", "kept"), [(4, 4), (3, 2)])
def test_a_blend_trains_no_opening_of_the_assistant(turns: int, kept: int) -> None:
    """It would be a reply to the other dialogue's user: it is left out, as is a last turn of the
    user's that no reply follows."""
    whole = annotated("whole", turns)
    opened = AnnotatedDialogue("opened", annotated("opened", 6).turns[1:])
    found = [blend([whole, opened], 1.0, seed)[0] for seed in range(8)]
    said = {tuple(turn.utterance for turn in mixed.turns) for mixed in found}
    assert said == {
        (*(f"whole {n}" for n in range(kept)), *(f"opened {n}" for n in range(2, 6))),
        (*(f"opened {n}" for n in range(1, 6)), *(f"whole {n}" for n in range(turns))),
    }


def test_the_users_side_is_trained_where_that_is_asked() -> None:
    dialogue = annotated("a", 4)
    profiles = ConversationConfig()
    (agent,) = training_text([dialogue], profiles, states=True)
    both = training_text([dialogue], ConversationConfig(train_user=True), states=True)
    user = view(of_annotated(dialogue), profiles.user, states=True, speaker="user").training()
    assert both == [agent, user]


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
    (found,) = read_instructions(InstructionsConfig(input=path)).dialogues
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
    config = InstructionsConfig(
        reader=reader, input=tmp_path if reader == "hf" else path, max_unused_share=0.5
    )
    read = read_instructions(config)
    (found,) = read.dialogues
    assert read.counts == {"read": 2, "used": 1, "unused": {"no_exchange": 1}}
    assert found == TrainingDialogue(tuple(Message(*turn) for turn in turns[:3]))


@pytest.mark.parametrize("role", ["user", "assistant"])
def test_instructions_without_an_exchange_are_an_error(tmp_path: Path, role: str) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps({"messages": [{"role": role, "content": "hi"}]}) + "\n")
    with pytest.raises(DataError, match=r"tasks\.jsonl.*'messages'"):
        read_instructions(InstructionsConfig(input=path))


def test_instructions_that_cannot_be_used_are_counted_and_limited(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A call of a tool is left out, not its record; broken lines are said, and stop the run."""
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    task = {
        "messages": [
            {"role": "user", "content": "2 + 2?"},
            call,
            {"role": "tool", "content": "4"},
            {"role": "assistant", "content": "4"},
        ]
    }
    path = tmp_path / "tasks.jsonl"
    good = [json.dumps(task)] * 99
    path.write_text("\n".join([*good, "{broken"]), encoding="utf-8")
    read = read_instructions(InstructionsConfig(input=path))
    assert read.counts == {"read": 100, "used": 99, "unused": {"not_json": 1}}
    assert read.dialogues[0] == TrainingDialogue(with_roles(["2 + 2?", "4"]))
    assert "1 of 100 records cannot be used (not_json: 1)" in caplog.text
    path.write_text("\n".join([good[0], *["{broken"] * 99]), encoding="utf-8")
    with pytest.raises(DataError, match=r"99 of 100 .*not_json: 99.*line 2.*max_unused_share"):
        read_instructions(InstructionsConfig(input=path))


def test_alpaca_is_instruction_data(tmp_path: Path) -> None:
    path = tmp_path / "alpaca.json"
    path.write_text(json.dumps([{"instruction": "Add.", "input": "2 + 2", "output": "4"}]))
    (found,) = read_instructions(InstructionsConfig(input=path)).dialogues
    assert found == TrainingDialogue(with_roles(["Add.\n2 + 2", "4"]))
