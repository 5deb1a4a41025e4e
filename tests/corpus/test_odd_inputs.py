"""Inputs with odd encodings, wrong names, broken parts and strange values: what is read, what is
refused and why, and that every record is counted once."""

import gzip
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app
from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.build import load_funnel
from sage_core.corpus.ingest import load_quarantine
from sage_core.corpus.records import DIALOGUES, REJECTED, BadRecord, Record
from sage_core.corpus.sources import read, sources
from sage_core.errors import DataError
from sage_core.schema import Dialogue, Rejection
from sage_core.steps.local import build_corpus
from sage_core.storage import read_rows

ASKED, ANSWERED = "How are you?", "I am fine."
MESSAGES = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": ANSWERED}]
GOOD = {"messages": MESSAGES}
TALK = f"{ASKED}/{ANSWERED}"
BOB = {"roles": {"Bob": "assistant"}}


def lines(*records: object) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def said(*turns: tuple[str, object], **more: object) -> dict[str, object]:
    return {"messages": [{"role": role, "content": text} for role, text in turns], **more}


def table(*rows: str, header: str = "conversation_id,speaker,text") -> str:
    return "".join(f"{row}\n" for row in (header, *rows))


def node(role: str, parent: str, *children: str, **message: object) -> dict[str, object]:
    """A node of ChatGPT's tree."""
    parts = [ASKED if role == "user" else ANSWERED]
    content = {"content_type": "text", "parts": parts}
    return {"message": {"author": {"role": role}, "content": content, **message},
            "parent": parent, "children": list(children)}  # fmt: skip


def chatgpt(leaf: object = "b", **message: object) -> dict[str, object]:
    tree = {"a": node("user", "", "b", **message), "b": node("assistant", "a")}
    return {"id": "c", "current_node": leaf, "mapping": tree}


def multimodal(*parts: object) -> dict[str, object]:
    return {"content": {"content_type": "multimodal_text", "parts": list(parts)}}


def telegram(*texts: object) -> str:
    return json.dumps(
        {"messages": [{"type": "message", "date": f"2024-01-01T00:0{n}:00", "text": text,
                       "from": ("Ann", "Bob")[n % 2]} for n, text in enumerate(texts)]}
    )  # fmt: skip


def discord(*messages: object) -> str:
    return json.dumps({"channel": {}, "messages": messages})


def in_discord(name: str, text: object) -> dict[str, object]:
    return {"type": "Default", "timestamp": "2024-01-01T00:00:00+00:00", "content": text,
            "author": {"name": name}}  # fmt: skip


def claude(*messages: object) -> dict[str, object]:
    return {"uuid": "1", "chat_messages": messages}


REFUSED = re.compile(r"[a-z0-9_]+ \S+\.(jsonl|json|csv|txt|parquet)\b")
FLAT = "message_tree_id,message_id,parent_id,text,role,deleted"


@dataclass(frozen=True)
class Case:
    """A file and what comes of its records: the turns, or reason, place and a part of the detail.

    Attributes:
        left_out: of all its dialogues.
    """

    file: str
    content: str | bytes
    expected: tuple[str, ...]
    reader: str = "messages"
    settings: dict[str, Any] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


CASES = {
    # encodings
    "UTF-16": Case("a.jsonl", lines(GOOD).encode("utf-16"),
                   ("not_text a.jsonl: the file is not text in UTF-8; save it as UTF-8",)),
    "a byte order mark": Case("a.jsonl", b"\xef\xbb\xbf" + lines(GOOD).encode(), (TALK,)),
    "a line in Latin-1": Case("a.jsonl", "{\"x\": \"caf\xe9\"}\n".encode("latin-1")
                              + lines(GOOD).encode(), ("not_utf8 a.jsonl, line 1: ", TALK)),
    "lines that end in CR": Case("a.jsonl", lines(GOOD, GOOD).replace("\n", "\r"),
                                 ("not_json a.jsonl, line 1: at character 1",)),
    "half a pair": Case("a.jsonl", '{"messages": ["\\ud83d"]}\n' + lines(GOOD),
                        ("not_json a.jsonl, line 1: at character ", TALK)),
    "a table in UTF-16": Case("a.csv", table("1,user,hé").encode("utf-16"),
                              ("not_utf8 a.csv, header: save it as UTF-8",)),
    "a header in Latin-1": Case("a.csv", table(header="größe,text").encode("latin-1"),
                                ("not_utf8 a.csv, header: save it as UTF-8",)),
    "a chat in Latin-1": Case(
        "_chat.txt",
        "31/12/23, 23:57 - Ann: Hi?\n31/12/23, 23:58 - Ann: Grüße\nand\n31/12/23, 23:59 - Bob: "
        "Hello\nschön\n31/12/23, 23:59 - Bob: Yes.\n".encode("latin-1"),
        ("not_utf8 _chat.txt, line 2: save the file as UTF-8",
         "not_utf8 _chat.txt, line 5: save the file as UTF-8", "Hi?/Yes."), "whatsapp", BOB),
    "a chat in French": Case(
        "_chat.txt", "31/12/2023 à 23:58 - Ann: Ça va ?\n31/12/2023 à 23:59 - Bob: Oui.\n",
        ("Ça va ?/Oui.",), "whatsapp", BOB),
    # wrong names, and what else is no record
    "a zip archive": Case("a.jsonl", b"PK\x03\x04" + bytes(range(256)),
                          ("not_text a.jsonl: a zip archive; unpack it",)),
    "gzip without its suffix": Case("a.jsonl", gzip.compress(lines(GOOD).encode()),
                                    ("not_text a.jsonl: name it *.gz",)),
    "half of a gzip": Case("a.jsonl.gz", gzip.compress(lines(GOOD, GOOD).encode())[:-4],
                           (TALK, TALK, "truncated a.jsonl.gz, line 3: ")),
    "lines called CSV": Case("a.csv", lines(GOOD),
                             ("wrong_type a.csv, header: the file is JSON; name it *.json",)),
    "CSV called lines": Case("a.jsonl", table("1,user,hi"), (
        "not_json a.jsonl, line 1: expected a JSON value at character 1",
        "not_json a.jsonl, line 2: at character ")),
    "a page": Case("a.jsonl", "<!DOCTYPE html>\n", ("not_json a.jsonl, line 1: at character 1",)),
    "values without an object": Case("a.jsonl", '1\n"a"\nnull\n' + lines(GOOD), (
        *(f"wrong_type a.jsonl, line {n}: it is not an object" for n in (1, 2, 3)), TALK)),
    "an array of arrays": Case("a.json", json.dumps([MESSAGES]),
                               ("wrong_type a.json, record 1: it is not an object",)),
    "deep nesting": Case("a.jsonl", f'{{"messages": {"[" * 3000}{"]" * 3000}}}\n{lines(GOOD)}',
                         ("not_json a.jsonl, line 1: at character ", TALK)),
    "two arrays": Case("a.json", f"{json.dumps([GOOD])}[]",
                       (TALK, "not_json a.json, after the array: ")),
    "an unknown name around": Case("a.json", json.dumps({"version": 1, "results": [GOOD]}), (
        "missing_field a.json, line 1: the fields version, results are of no known layout",)),
    # numbers
    "numbers that JSON has not": Case(
        "a.jsonl", '{"a": NaN}\n{"id": 1e400}\n' + lines({**GOOD, "id": 7.0}, {**GOOD, "id": 7.5}),
        ("not_json a.jsonl, line 1: at character 7", "not_json a.jsonl, line 2: at character ",
         TALK, "wrong_type a.jsonl, line 4: 'id' is 7.5, not a text or a whole number")),
    "decimals": Case("a.parquet", b"", (
        "wrong_type a.parquet, row 1: 'id' is Decimal('1'), not a text or a whole number", TALK,
        "no_turns a.parquet, row 3: nobody says anything")),
    # turns
    "blank turns": Case(
        "a.jsonl", lines(said(("user", "a"), ("assistant", " \n"), ("user", "b"),
                              ("assistant", "c")), said(("user", ""), ("assistant", " "))),
        ("a\nb/c", "no_turns a.jsonl, line 2: nobody says anything"), left_out=("blank",)),
    "roles that are left out": Case(
        "a.jsonl", lines(said(("developer", "x"), ("USER", "a"), ("tool", None), ("Bot", "b"))),
        ("a/b",), left_out=("developer", "tool")),
    "a text that is none": Case("a.jsonl", lines({"dialog": ["a", None]}, {"dialog": ["a", 5]},
                                                 {"dialog": ["a", "b", "  "]}), (
        "missing_field a.jsonl, line 1: 'dialog[1]' is missing or null",
        "wrong_type a.jsonl, line 2: 'dialog[1]' is 5, not a text", "a/b"), left_out=("blank",)),
    "no answer": Case("a.jsonl", lines({"instruction": "a", "output": ""}), ("a",),
                      left_out=("blank",)),
    "a picture alone": Case("a.jsonl", lines(said(("user", [{"type": "image_url"}]))), (
        "no_text a.jsonl, line 1: 'messages[0].content' has no part of text, only image_url",)),
    # tables
    "a separator that is named": Case("a.csv", "sep=|\n\n" + table(
        "1|user|a, b;", "1|assistant|c", header="conversation_id|speaker|text"), ("a, b;/c",)),
    "a header over two lines": Case("a.csv", '\n"conversation_id","speaker","text","a\nb"\n'
                                    "1,user,a,\n1,assistant,b,\n", ("a/b",)),
    "a name twice": Case("a.csv", table("1,user,a,b", header="conversation_id,speaker,text,text"),
                         ("wrong_type a.csv, header: two columns are called 'text'",)),
    "an empty cell": Case("a.csv", table("1,user,a", "1,assistant,", "1,user,b", "1,assistant,c"),
                          ("a\nb/c",), left_out=("blank",)),
    # chats
    "strange parts in Telegram": Case(
        "result.json", telegram("a", ["b ", {"type": "bold", "text": "c"}], ["d", None], 5, "", ""),
        ("missing_field result.json, message 3: 'text[]' is missing or null",
         "wrong_type result.json, message 4: 'text' is 5, not a text or a list of parts", "a/b c"),
        "telegram", BOB, ("blank", "blank")),
    "somebody left out": Case(
        "a.json", discord(in_discord("Ann", "a"), in_discord("Bob", "b"), in_discord("Cy", "c"), 7),
        ("wrong_type a.json, message 4: it is not an object", "a/b"), "discord",
        {"roles": {"Bob": "assistant", "Cy": "system"}}, ("Cy",)),
    "strange fields in ChatGPT": Case(
        "a.json", json.dumps([chatgpt(["b"]), chatgpt(metadata=["x"]), chatgpt(author="user"),
                              {"mapping": []}]),
        (TALK, TALK, "wrong_type a.json, record 3: 'message.author' is 'user', not an object",
         "wrong_type a.json, record 4: 'mapping' is [], not an object"), "chatgpt"),
    "what ChatGPT heard and hid": Case(
        "a.json", json.dumps([
            chatgpt(**multimodal({"content_type": "audio_transcription", "text": "aloud"}, {})),
            chatgpt(recipient="browser"),
            chatgpt(metadata={"is_visually_hidden_from_conversation": True})]),
        (f"aloud/{ANSWERED}", ANSWERED, ANSWERED), "chatgpt",
        left_out=("call of a tool", "hidden")),
    "strange messages in Claude": Case(
        "a.json", json.dumps([claude(None), {"chat_messages": {}}, claude(
            {"uuid": "a", "parent_message_uuid": "a", "sender": "human", "text": "x"})]),
        ("missing_field a.json, record 1: 'chat_messages[0]' is missing or null",
         "wrong_type a.json, record 2: 'chat_messages' is {}, not a list",
         "wrong_type a.json, record 3: leads in a circle at 'a'"), "claude"),
    # trees
    "a tree in CSV": Case(
        "a.csv", table("t,t,,a,prompter,False", "t,x,t,b,assistant,False", "t,y,t,c,assistant,True",
                       "t,z,gone,d,prompter,False", "t,x,t,e,assistant,False",
                       "u,u,,a,prompter,True", "v,v,,a,prompter", "w,w,,a,robot,", header=FLAT),
        ("wrong_type a.csv, row 5: 'message_id' 'x' is there already",
         "no_parent a.csv, row 4: leads to no prompt of the tree", "a/b",
         "wrong_type a.csv, row 7: it has 5 fields", "no_turns a.csv, row 6: the prompt is deleted",
         "unknown_role a.csv, row 8: 'role' is 'robot'"), "openassistant"),
    "a bad row within a tree": Case(
        "a.jsonl", lines({"message_tree_id": "t", "message_id": "t", "text": "a",
                          "role": "prompter"}) + "{\n" + lines(
            {"message_tree_id": "t", "message_id": "u", "parent_id": "t", "text": "b",
             "role": "assistant"}), ("not_json a.jsonl, line 2: ", "a/b"), "openassistant"),
    "trees of one name": Case("a.jsonl", lines(*[{"message_tree_id": "t", "prompt": {
        "message_id": name, "text": name, "role": "prompter"}} for name in "ab"]), ("a", "b"),
        "openassistant"),
}  # fmt: skip


def write(case: Case, folder: Path) -> Path:
    path = folder / "in" / case.file
    path.parent.mkdir()
    if path.suffix == ".parquet":
        rows = [{"id": Decimal(1), **GOOD}, {"id": None, **GOOD}, {"id": None, "messages": []}]
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        data = case.content
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def config_of(case: Case, path: Path, **more: object) -> CorpusConfig:
    settings = {"reader": case.reader, "input": path, **case.settings, **more}
    return CorpusConfig.model_validate(settings)


def matches(record: Record, expected: str) -> bool:
    if isinstance(record, BadRecord):
        place, _, detail = expected.partition(": ")
        return f"{record.reason} {record.where}" == place and detail in record.detail
    assert isinstance(record, Dialogue)
    return "/".join(turn.content for turn in record.messages) == expected


@pytest.mark.parametrize("name", CASES)
def test_what_is_read_and_what_is_refused(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    config = config_of(case, write(case, tmp_path))
    records = [record for source in sources(config) for record in read(source, config)]
    assert len(records) == len(case.expected), records
    for record, expected in zip(records, case.expected, strict=True):
        assert matches(record, expected), (record, expected)
    dialogues = [record for record in records if isinstance(record, Dialogue)]
    assert tuple(what for dialogue in dialogues for what in dialogue.left_out) == case.left_out


@pytest.mark.parametrize("name", CASES)
def test_every_record_is_counted_once(tmp_path: Path, name: str) -> None:
    """kept + dropped + quarantined = read, in the funnel and in the tables."""
    case, output = CASES[name], tmp_path / "out"
    limits = {"max_bad_share": 1, "rules": ["turns"], "min_turns": 2}
    build_corpus(config_of(case, write(case, tmp_path), **limits), output)
    first, last = load_funnel(output)
    bad = sum(map(bool, map(REFUSED.match, case.expected)))
    assert first["records"] == {
        "read": len(case.expected), "used": len(case.expected) - bad, "quarantined": bad
    }  # fmt: skip
    assert len(load_quarantine(output)) == first["quarantined"] == bad
    kept, dropped = (
        len(read_rows(output / DIALOGUES, Dialogue)),
        len(read_rows(output / REJECTED, Rejection)),
    )
    assert (last["kept"], last["dropped"]) == (kept, dropped)
    assert kept + dropped + bad == len(case.expected)
    assert sum(first.get("left_out", {}).values()) == len(case.left_out)


@pytest.mark.parametrize("name", CASES)
def test_a_look_ends_in_words(tmp_path: Path, name: str) -> None:
    """``sage corpus inspect`` of a wrong file is an error that says what is wrong with its first
    record; it never ends in a traceback."""
    case = CASES[name]
    path = write(case, tmp_path)
    roles = [f"corpus.roles={json.dumps(case.settings['roles'])}"] if case.settings else []
    settings = [part for each in roles for part in ("--set", each)]
    done = CliRunner().invoke(app, ["corpus", "inspect", str(path), *settings])
    if done.exit_code == 0:
        assert f"{len(case.expected)} records read" in done.output
    elif isinstance(done.exception, DataError):
        assert "its first record is " in str(done.exception)
    else:
        assert isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code == 2


def broken(path: Path) -> None:
    """Overwrite the compressed bytes of the first member."""
    data = bytearray(path.read_bytes())
    start = 30 + int.from_bytes(data[26:28], "little")
    data[start + 4 : start + 12] = bytes(8)
    path.write_bytes(data)


def encrypted(path: Path) -> None:
    """Set the flag of encryption of all members."""
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + offset] |= 1
            at = data.find(mark, at + 4)
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [broken, encrypted])
@pytest.mark.parametrize("reader", ["slack", "convokit"])
def test_an_archive_that_cannot_be_opened(
    tmp_path: Path, damage: Callable[[Path], None], reader: str
) -> None:
    path = tmp_path / "a.zip"
    message = {"type": "message", "user": "Bob", "text": "hi", "ts": "1.0"}
    name = {"slack": "general/2024-01-01.json", "convokit": "c/utterances.jsonl"}[reader]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, json.dumps([{**message, "n": n} for n in range(99)]))
    damage(path)
    config = CorpusConfig(reader=reader, input=path, roles={"Bob": "assistant"})
    *_, bad = [record for source in sources(config) for record in read(source, config)]
    assert isinstance(bad, BadRecord)
    assert bad.reason == "truncated"
    assert damage is broken or "password required" in bad.detail


def test_days_of_slack_that_cannot_be_read(tmp_path: Path) -> None:
    days = tmp_path / "in" / "general"
    days.mkdir(parents=True)
    (days / "2024-01-01.json").write_text(json.dumps([5, None]))
    (days / "2024-01-02.json").write_bytes(b"\xff\xfe")
    config = CorpusConfig(reader="slack", input=tmp_path / "in", roles={"Bob": "assistant"})
    records = [record for source in sources(config) for record in read(source, config)]
    assert [(bad.reason, bad.where, bad.detail) for bad in records if isinstance(bad, BadRecord)][
        :2
    ] == [
        ("wrong_type", f"in/general/2024-01-01.json, message {number}", "it is not an object")
        for number in (1, 2)
    ]
    last = records[-1]
    assert isinstance(last, BadRecord)
    assert (last.reason, last.where) == ("not_json", "in/general/2024-01-02.json")


def test_what_is_left_out_is_shown_and_written_down(tmp_path: Path) -> None:
    """By ``inspect``, by ``build``, in the funnel and in the data card."""
    path, output = tmp_path / "a.jsonl", tmp_path / "out"
    notes = (("system", "s"), ("tool", "t"), ("system", "s"), ("user", " "))
    path.write_text(lines(said(*notes, *((m["role"], m["content"]) for m in MESSAGES)), GOOD))
    shown = "4 messages left out of dialogues: blank 1, system 2, tool 1"
    done = CliRunner().invoke(app, ["corpus", "inspect", str(path)])
    assert f"  {shown}\n" in done.output
    seen = json.loads(CliRunner().invoke(app, ["corpus", "inspect", str(path), "--json"]).output)
    assert seen["left_out"] == {"system": 2, "tool": 1, "blank": 1}
    done = CliRunner().invoke(app, ["corpus", "build", "--reader", "messages", "--input", str(path),
                                    "--output", str(output), "--processes", "1"])  # fmt: skip
    assert f"{shown}\n" in done.output
    assert load_funnel(output)[0]["left_out"] == seen["left_out"]
    card = (output / "data_card.md").read_text()
    assert "Messages left out of dialogues: blank 1, system 2, tool 1." in card


def test_a_look_at_another_language_as_json(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        lines(said(*(("user", "你好吗\uff1f今天天气怎么样\uff1f"), ("assistant", "很好。")) * 3))
    )
    done = CliRunner().invoke(
        app, ["corpus", "inspect", str(path), "--json", "--set", "corpus.min_mean_words=1"]
    )
    assert json.loads(done.output)["not_applied"] == {"sentiment": 1}
