"""Every format from a minimal file; what cannot be read says which file, line, field and value."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from formats import ANSWERED, ASKED, FORMATS, MESSAGES, TALK, discord, lines, telegram, write

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.inspection import recognise_reader
from sage_core.corpus.records import BadRecord, Record
from sage_core.corpus.sources import read, reader_of, sources
from sage_core.errors import DataError
from sage_core.schema import Dialogue


def read_all(reader: str, path: Path, **more: Any) -> list[Record]:
    config = CorpusConfig.model_validate({"reader": reader, "input": path, **more})
    return [record for source in sources(config) for record in read(source, config)]


def said(record: Record) -> list[tuple[str, str]]:
    assert isinstance(record, Dialogue), record
    return [(message.role, message.content) for message in record.messages]


def refused(tmp_path: Path, text: str, name: str = "a.jsonl", **more: Any) -> BadRecord:
    (tmp_path / name).write_text(text, encoding="utf-8")
    (bad,) = read_all("messages", tmp_path / name, **more)
    assert isinstance(bad, BadRecord), bad
    return bad


@pytest.mark.parametrize("name", FORMATS)
def test_a_minimal_file(tmp_path: Path, name: str) -> None:
    reader, _, _, settings, expected = FORMATS[name]
    (dialogue,) = read_all(reader, write(name, tmp_path), **settings)
    assert said(dialogue) == expected
    assert isinstance(dialogue, Dialogue)
    assert dialogue.has_roles == (name not in ("texts", "turns by name"))


@pytest.mark.parametrize("name", [name for name in FORMATS if "columns" not in FORMATS[name][3]])
def test_a_format_is_recognised(tmp_path: Path, name: str) -> None:
    reader = FORMATS[name][0].replace("sharegpt", "messages")
    path = write(name, tmp_path)
    assert recognise_reader(path) == reader
    config = CorpusConfig(reader=reader, input=path)
    recognised = reader_of(config).recognise(sources(config)[0], config)
    assert recognised is not None
    assert recognised.layout


def test_the_same_by_hub_name_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "talks"
    for part in ("en/train", "en/test", "de/train"):
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{part}.jsonl").write_text(lines({"messages": MESSAGES, "id": part}))
    card = "---\nconfigs:\n" + "".join(
        f"- config_name: {name}\n  data_files:\n" + "".join(
            f"  - split: {split}\n    path: {name}/{split}.jsonl\n" for split in splits
        )
        for name, splits in (("en", ("train", "test")), ("de", ("train",)))
    )  # fmt: skip
    (folder / "README.md").write_text(f"{card}---\n")
    found = read_all("hf", folder, configuration="en", splits=["test"])
    assert [each.dialogue_id for each in found if isinstance(each, Dialogue)] == ["en/test"]
    found = read_all("hf", folder, configuration="de")
    assert [each.dialogue_id for each in found if isinstance(each, Dialogue)] == ["de/train"]
    with pytest.raises(DataError, match=r"no split dev; it has train, test"):
        read_all("hf", folder, configuration="en", splits=["dev"])
    with pytest.raises(DataError, match=r"corpus\.configuration"):
        read_all("hf", folder)


@pytest.mark.parametrize("reader", ["messages", "hf"])
def test_questions_alone_are_no_dialogue(tmp_path: Path, reader: str) -> None:
    text = lines({"question_id": 81, "category": "writing", "turns": ["Write.", "Rewrite."]})
    if reader == "messages":
        bad = refused(tmp_path, text)
        assert bad.reason == "missing_field"
        assert "corpus.columns.messages=turns" in bad.detail
        return
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"'turns' has no roles .*corpus\.columns\.messages=turns"):
        read_all("hf", tmp_path)


@pytest.mark.parametrize(
    ("record", "reason", "words"),
    [
        ({"messages": [MESSAGES[0], {"role": "narrator", "content": "x"}]}, "unknown_role",
         ["messages[1].role", "'narrator'", "corpus.roles={narrator: user}"]),
        ({"messages": [{"role": "user", "content": 7}]}, "wrong_type",
         ["messages[0].content", "7", "a text or a list of parts"]),
        ({"messages": [{"role": "user"}]}, "missing_field", ["messages[0].content", "missing"]),
        ({"messages": [{"content": "x"}, MESSAGES[0]]}, "missing_field", ["messages[0].role"]),
        ({"messages": "hello"}, "wrong_type", ["messages", "'hello'", "a list"]),
        ({"messages": "[{"}, "wrong_type", ["messages", "not JSON"]),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "no_text",
         ["messages[0].content", "image_url"]),
        ({"messages": MESSAGES, "id": ["x"]}, "wrong_type", ["'id'", "['x']"]),
        ({"text": "x", "label": 1}, "missing_field", ["text, label", "corpus.columns"]),
        ({"prompt": "x", "completion": 3}, "wrong_type", ["'completion'", "3"]),
    ],
)  # fmt: skip
def test_a_message_names_the_place_the_field_and_the_value(
    tmp_path: Path, record: dict[str, Any], reason: str, words: list[str]
) -> None:
    bad = refused(tmp_path, lines(record))
    assert (bad.reason, bad.where) == (reason, "a.jsonl, line 1")
    assert all(word in bad.detail for word in words), bad.detail


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"PK\x03\x04" + bytes(200), "a zip archive"),
        (b"\x1f\x8b\x08" + bytes(200), "gzip; name it"),
        (b"\x89PNG\r\n" + bytes(range(256)), "not text in UTF-8"),
    ],
)
def test_binary_under_a_suffix_of_text_is_not_printed(
    tmp_path: Path, data: bytes, words: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(data)
    (bad,) = read_all("messages", path)
    assert isinstance(bad, BadRecord)
    assert bad.reason == "not_text"
    assert words in bad.detail
    assert bad.sample == f"({len(data)} bytes, not text)"


def test_a_table_of_people(tmp_path: Path) -> None:
    """Two of them: the first is the user. More: somebody has to be the assistant."""
    head = "conv_id,speaker,text\n"
    two = f'{head}1,Zoe,{ASKED}\n1,Al,"Yes, by\nan hour."\n'
    path = tmp_path / "a.csv"
    path.write_text(two, encoding="utf-8")
    (dialogue,) = read_all("messages", path)
    assert said(dialogue) == [("user", ASKED), ("assistant", "Yes, by\nan hour.")]
    assert isinstance(dialogue, Dialogue)
    assert not dialogue.has_roles
    assert dialogue.dialogue_id == "1"
    (dialogue,) = read_all("messages", path, roles={"Zoe": "assistant"})
    assert said(dialogue) == [("assistant", ASKED), ("user", "Yes, by\nan hour.")]
    bad = refused(tmp_path, f"{two}1,Jo,hi\n", "b.csv")
    assert bad.reason == "unknown_role"
    assert "Zoe, Al, Jo" in bad.detail
    assert "corpus.roles" in bad.detail


@pytest.mark.parametrize(
    ("row", "reason", "kept"),
    [
        ('2,user,"never closed', "truncated", ["1"]),
        ('2,user,"he "said" it"', "wrong_type", ["1", "4"]),  # may be of 2 or of 3
        ("2,user,a,b", "wrong_type", ["1", "4"]),
        ("3,user", "wrong_type", ["1", "4"]),
    ],
)
def test_a_bad_row_costs_each_conversation_that_it_may_be_of(
    tmp_path: Path, row: str, reason: str, kept: list[str]
) -> None:
    turns = [f"{number},{role},x" for number in (1, 2) for role in ("user", "assistant")]
    after = [f"{number},{role},x" for number in (3, 4) for role in ("user", "assistant")]
    path = tmp_path / "a.csv"
    text = "\n".join(["conversation_id,role,content", *turns, row, *after])
    path.write_text(text, encoding="utf-8")
    records = read_all("messages", path)
    assert [each.dialogue_id for each in records if isinstance(each, Dialogue)] == kept
    bad = [each for each in records if isinstance(each, BadRecord)]
    assert {each.reason for each in bad} == {reason}
    assert bad[0].where == "a.csv, row 5"
    assert all("a.csv, row 5" in f"{each.where} {each.detail}" for each in bad)


def test_rows_of_a_conversation(tmp_path: Path) -> None:
    rows = ["1,user,a", "1,agent,b", "2,user,c", "2,narrator", "2,agent,d", "3,user,e", "1,user,f"]
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["conv_id,role,text", *rows]), encoding="utf-8")
    first, bad, third, scattered = read_all("messages", path)
    assert said(first) == [("user", "a"), ("assistant", "b")]
    assert isinstance(bad, BadRecord)
    assert (bad.reason, bad.where) == ("wrong_type", "a.csv, row 4")
    assert "2 fields, the header 3" in bad.detail
    assert said(third) == [("user", "e")]
    assert isinstance(scattered, BadRecord)
    assert (scattered.reason, scattered.where) == ("scattered", "a.csv, row 7")
    path.write_bytes(b"conv_id,role,text\n1,user,\xff\n1,agent,b\n")
    assert [each.reason for each in read_all("messages", path) if isinstance(each, BadRecord)] == [
        "not_utf8"
    ]


@pytest.mark.parametrize("name", ["Discord", "Telegram", "WhatsApp", "Slack"])
def test_a_chat_of_people_lists_its_speakers(tmp_path: Path, name: str) -> None:
    reader = FORMATS[name][0]
    path = write(name, tmp_path)
    with pytest.raises(DataError, match=r"Anna \(\d messages\), Bob \(1 messages\); set .*roles="):
        read_all(reader, path)
    (bad,) = read_all(reader, path, roles={"Boob": "assistant"})
    assert isinstance(bad, BadRecord)
    assert bad.reason == "no_agent"
    assert "Anna" in bad.detail


def test_a_pause_begins_a_new_dialogue(tmp_path: Path) -> None:
    chat = telegram()
    for message, time in zip(chat["messages"], (0, 0, 3600, 6 * 3600 + 3601), strict=True):
        message["date_unixtime"] = str(time)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(chat), encoding="utf-8")
    bob = {"Bob": "assistant"}
    first, second = read_all("telegram", path, roles={**bob, "Anna": "user"})
    assert said(first) == TALK[:2]
    assert isinstance(second, BadRecord)
    assert second.reason == "no_agent"
    (whole,) = read_all("telegram", path, roles=bob, pause_hours=7)
    assert said(whole) == TALK


def test_chats_of_an_account_are_read_apart(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps({"chats": {"list": [telegram(), telegram()]}}), encoding="utf-8")
    assert [said(each) for each in read_all("telegram", path, roles={"Bob": "assistant"})] == [
        TALK, TALK
    ]  # fmt: skip


def test_a_speaker_may_be_left_out(tmp_path: Path) -> None:
    chat = discord()
    chat["messages"].insert(2, {**chat["messages"][1], "author": {"name": "Spam", "isBot": True}})
    path = tmp_path / "a.json"
    path.write_text(json.dumps(chat), encoding="utf-8")
    (dialogue,) = read_all("discord", path, roles={"Bob": "assistant", "Spam": "system"})
    assert said(dialogue) == TALK


def test_a_slack_export_whose_users_cannot_be_read(tmp_path: Path) -> None:
    """The file is named, and the field of a message that is wrong."""
    (tmp_path / "general").mkdir()
    day = [{"type": "message", "user": "U1", "text": "Hi", "ts": "soon"}]
    (tmp_path / "general" / "2024-01-01.json").write_text(json.dumps(day))
    (tmp_path / "users.json").write_text("{broken")
    roles = {"U1": "assistant"}
    with pytest.raises(DataError, match=r"users\.json.* cannot be read as an array of users"):
        read_all("slack", tmp_path, roles=roles)
    (tmp_path / "users.json").write_text("[]")
    (bad,) = read_all("slack", tmp_path, roles=roles)
    assert isinstance(bad, BadRecord)
    assert "'ts' is 'soon', not a time in seconds" in bad.detail


def test_a_slack_zip_and_its_threads(tmp_path: Path) -> None:
    folder = write("Slack", tmp_path)
    day = folder / "general" / "2024-02-01.json"
    messages = json.loads(day.read_text())
    thread = {"type": "message", "ts": "5.1", "thread_ts": "5.1", "reply_count": 1}
    messages += [{**thread, "user": "U1", "text": "And <http://x|now>? &lt;3"},
                 {**thread, "ts": "6.1", "user": "U2", "text": "Now, <@U1>."}]  # fmt: skip
    day.write_text(json.dumps(messages))
    archive = Path(shutil.make_archive(str(tmp_path / "slack"), "zip", folder))
    for path in (folder, archive):
        first, second = read_all("slack", path, roles={"Bob": "assistant"})
        assert said(first) == TALK
        assert said(second) == [("user", "And now? <3"), ("assistant", "Now, @Anna.")]
    with pytest.raises(DataError, match="is not a Slack export"):
        read_all("slack", tmp_path / "none")


@pytest.mark.parametrize("reader", ["pushshift", "convokit"])
def test_posts_in_parquet(tmp_path: Path, reader: str) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "b", "title": "t", "selftext": "s", "body": None, "link_id": None,
         "subreddit": "r", "created_utc": 1, "author": "x"},
        {"id": "c", "title": None, "selftext": None, "body": "y", "link_id": "t3_b",
         "subreddit": "r", "created_utc": 2, "author": "z"},
    ] if reader == "pushshift" else [
        {"id": "a", "root": "a", "reply_to": None, "speaker": "x", "text": "t", "timestamp": 1},
        {"id": "b", "root": "a", "reply_to": "a", "speaker": "y", "text": "y", "timestamp": 2},
    ]  # fmt: skip
    path = tmp_path / "p.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    first, second = read_all(reader, path)
    assert not isinstance(first, BadRecord | Dialogue)
    assert not isinstance(second, BadRecord | Dialogue)
    assert second.parent_id == first.post_id
    assert second.thread_id == first.thread_id


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    real = tmp_path / "real"
    (tmp_path / "in").mkdir()
    real.mkdir()
    (real / "a.jsonl").write_text(lines({"messages": MESSAGES}))
    (tmp_path / "in" / "link").symlink_to(real)
    (real / "back").symlink_to(tmp_path / "in")
    config = CorpusConfig(reader="messages", input=tmp_path / "in")
    assert [source.name for source in sources(config)] == ["link/a.jsonl"]


def test_alpaca_with_a_history(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        lines({"instruction": "c", "input": "", "output": "d", "history": [["a", "b"]]})
    )
    (dialogue,) = read_all("messages", path)
    assert [text for _, text in said(dialogue)] == ["a", "b", "c", "d"]


def test_a_chatgpt_export_with_an_image_alone(tmp_path: Path) -> None:
    path = write("ChatGPT", tmp_path)
    export = json.loads(path.read_text())
    content = export[0]["mapping"]["new"]["message"]["content"]
    content.update(content_type="multimodal_text", parts=[{"asset_pointer": "x"}])
    path.write_text(json.dumps(export))
    (bad,) = read_all("chatgpt", path)
    assert isinstance(bad, BadRecord)
    assert (bad.reason, bad.where) == ("no_text", "conversations.json, record 1")
    assert ANSWERED not in bad.detail
