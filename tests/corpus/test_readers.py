"""Readers: what is streamed, and errors that name the line."""

import json
from pathlib import Path

import pytest

from sage_core.config import CorpusConfig
from sage_core.corpus.readers import read
from sage_core.errors import ConfigError, DataError
from sage_core.schema import Message


def messages_file(tmp_path: Path, *lines: str) -> CorpusConfig:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return CorpusConfig(reader="messages", input=path)


def conversation(*utterances: str, **more: str) -> str:
    roles = ("user", "assistant")
    messages = [
        {"role": roles[index % 2], "content": text} for index, text in enumerate(utterances)
    ]
    return json.dumps({"messages": messages, **more})


def test_messages(tmp_path: Path) -> None:
    config = messages_file(
        tmp_path,
        conversation("hi", "hello\nthere", "bye"),
        "",
        conversation("one", dialogue_id="x", thread_id="t"),
        conversation("two", dialogue_id="y"),
    )
    first, second, third = read(config)
    assert first.messages == (
        Message("user", "hi"), Message("assistant", "hello\nthere"), Message("user", "bye"),
    )  # fmt: skip
    assert (first.dialogue_id, first.source, first.thread_id) == ("mine-1", "mine", "mine-1")
    assert (second.dialogue_id, second.thread_id) == ("x", "t")
    assert (third.dialogue_id, third.thread_id) == ("y", "y")


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "3",
        '{"turns": []}',
        '{"messages": [{"role": "user"}]}',
        '{"messages": ["hi"]}',
        '{"messages": null}',
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    config = messages_file(tmp_path, conversation("hi"), "", line, conversation("bye"))
    with pytest.raises(DataError, match=r"line 3 of '.*mine\.jsonl'") as caught:
        list(read(config))
    assert '{"messages": [{"role": ..., "content": ...}, ...]}' in str(caught.value)


def test_lines_before_a_broken_one_are_streamed(tmp_path: Path) -> None:
    dialogues = read(messages_file(tmp_path, conversation("hi"), "{"))
    assert next(dialogues).messages == (Message("user", "hi"),)


def test_a_missing_file_and_wrong_settings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl' does not exist"):
        list(read(CorpusConfig(reader="messages", input=tmp_path / "none.jsonl")))
    with pytest.raises(ConfigError, match=r"needs corpus\.input"):
        list(read(CorpusConfig(reader="messages")))
    with pytest.raises(ConfigError, match="has its data packaged"):
        list(read(CorpusConfig(reader="chitchat", input=tmp_path)))


def test_max_read(tmp_path: Path) -> None:
    lines = [conversation(str(number)) for number in range(5)]
    config = messages_file(tmp_path, *lines)
    assert [d.messages[0].content for d in read(config.model_copy(update={"max_read": 2}))] == [
        "0", "1",
    ]  # fmt: skip
    assert len(list(read(config))) == 5


def test_chitchat_joins_the_messages_of_a_turn() -> None:
    """The packaged data, by hand: a turn is a list of one sender's messages."""
    import chitchat_dataset

    raw = json.loads(
        (Path(chitchat_dataset.__file__).parent / "dataset.json").read_text(encoding="utf-8")
    )
    dialogues = list(read(CorpusConfig()))
    assert len(dialogues) == len(raw) == 7168
    assert len({dialogue.dialogue_id for dialogue in dialogues}) == 7168
    for dialogue in dialogues[::500]:
        turns = raw[dialogue.dialogue_id]["messages"]
        assert len(dialogue.messages) == len(turns)
        for message, turn in zip(dialogue.messages, turns, strict=True):
            assert message.content == " ".join(part["text"] for part in turn)
        assert {m.role for m in dialogue.messages[::2]} <= {"user"}
        assert {m.role for m in dialogue.messages[1::2]} <= {"assistant"}
