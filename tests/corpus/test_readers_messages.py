"""Message lists: ShareGPT and chat messages, as JSON lines, JSON arrays and Parquet."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.records import BadRecord, Record
from sage_core.corpus.sources import read, sources
from sage_core.schema import Dialogue

NAMES = {
    "messages": ("messages", "role", "content"),
    "sharegpt": ("conversations", "from", "value"),
}
READERS = list(NAMES)
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".gz": gzip.compress,
}


def record(reader: str, *turns: tuple[str, object], **more: object) -> dict[str, Any]:
    messages, role, content = NAMES[reader]
    return {messages: [{role: by, content: said} for by, said in turns], **more}


def read_all(reader: str, path: Path, **more: Any) -> list[Record]:
    config = CorpusConfig.model_validate({"reader": reader, "input": path, **more})
    return [record for source in sources(config) for record in read(source, config)]


def read_lines(tmp_path: Path, reader: str, *records: object) -> list[Record]:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return read_all(reader, path)


def said(dialogue: Record) -> list[tuple[str, str]]:
    assert isinstance(dialogue, Dialogue), dialogue
    return [(message.role, message.content) for message in dialogue.messages]


@pytest.mark.parametrize("reader", READERS)
def test_identifiers(tmp_path: Path, reader: str) -> None:
    talk = (("user", "hi"), ("assistant", "hello\nthere"))
    records = read_lines(
        tmp_path,
        reader,
        record(reader, *talk),
        record(reader, *talk, id="x"),
        record(reader, *talk, id="x", dialogue_id="y", thread_id="t"),
        record(reader, *talk, id=7, thread_id=None),
        record(reader, *talk, id=None),
    )
    assert all(said(dialogue) == list(talk) for dialogue in records)
    assert [(d.dialogue_id, d.thread_id, d.source) for d in records if isinstance(d, Dialogue)] == [
        ("mine.jsonl-1", "mine.jsonl-1", "mine"),
        ("x", "x", "mine"),
        ("y", "t", "mine"),
        ("7", "7", "mine"),
        ("mine.jsonl-5", "mine.jsonl-5", "mine"),
    ]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([("system", "s"), ("user", "a"), ("system", "s"), ("user", "b"), ("assistant", "c")],
         [("user", "a\nb"), ("assistant", "c")]),
        ([("assistant", "a"), ("user", "b"), ("assistant", "c")],
         [("assistant", "a"), ("user", "b"), ("assistant", "c")]),
        ([("system", "s"), ("assistant", "a"), ("assistant", "b"), ("user", "c")],
         [("assistant", "a\nb"), ("user", "c")]),
        ([("user", "a"), ("assistant", "b"), ("assistant", "c"), ("assistant", "d")],
         [("user", "a"), ("assistant", "b\nc\nd")]),
        ([("user", "a"), ("assistant", " \n"), ("user", "b"), ("assistant", "c")],
         [("user", "a\nb"), ("assistant", "c")]),
        ([("assistant", "a")], [("assistant", "a")]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["lines", "array", "parquet"])
def test_turns_alternate_and_keep_their_roles(
    tmp_path: Path,
    reader: str,
    form: str,
    turns: list[tuple[str, str]],
    expected: list[tuple[str, str]],
) -> None:
    rows = [record(reader, *turns)]
    if form == "lines":
        (dialogue,) = read_lines(tmp_path, reader, *rows)
    elif form == "array":
        (tmp_path / "mine.json").write_text(json.dumps(rows), encoding="utf-8")
        (dialogue,) = read_all(reader, tmp_path / "mine.json")
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mine.parquet")
        (dialogue,) = read_all(reader, tmp_path / "mine.parquet")
    assert said(dialogue) == expected
    assert isinstance(dialogue, Dialogue)
    assert dialogue.has_roles


def test_the_names_of_roles_in_sharegpt(tmp_path: Path) -> None:
    turns = [("human", "1"), ("gpt", "2"), ("user", "3"), ("chatgpt", "4"), ("bing", "5"),
             ("bard", "6"), ("assistant", "7"), ("human", "8")]  # fmt: skip
    (dialogue,) = read_lines(tmp_path, "sharegpt", record("sharegpt", *turns))
    assert [text for _, text in said(dialogue)] == ["1", "2", "3", "4\n5\n6\n7", "8"]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: record(r), "no_turns"),
        (lambda r: record(r, ("system", "s")), "no_turns"),
        (lambda r: {}, "missing_field"),
        (lambda r: {NAMES[r][0]: None}, "missing_field"),
        (lambda r: {NAMES[r][0]: "hi"}, "wrong_type"),
        (lambda r: {NAMES[r][0]: ["hi"]}, "wrong_type"),
        (lambda r: {NAMES[r][0]: [{NAMES[r][1]: "user"}]}, "missing_field"),
        (lambda r: {NAMES[r][0]: [{NAMES[r][2]: "hi"}]}, "missing_field"),
        (lambda r: record(r, ("user", None)), "missing_field"),
        (lambda r: record(r, ("user", 3)), "wrong_type"),
        (lambda r: record(r, ("user", "hi"), ("narrator", "x")), "unknown_role"),
        (lambda r: record(r, ("user", "hi"), id=["x"]), "wrong_type"),
        (lambda r: [], "wrong_type"),
    ],
)
def test_what_is_no_conversation(
    tmp_path: Path, reader: str, change: Callable[[str], object], reason: str
) -> None:
    good = record(reader, ("user", "hi"))
    first, bad, last = read_lines(tmp_path, reader, good, change(reader), good)
    assert said(first) == said(last) == [("user", "hi")]
    assert isinstance(bad, BadRecord)
    assert (bad.reason, bad.where) == (reason, "mine.jsonl, line 2")
    assert bad.sample == json.dumps(change(reader))[:200]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array(tmp_path: Path, reader: str, suffix: str, indent: int | None) -> None:
    """An array gives what its elements give as lines; line numbers become record numbers."""
    tricky = 'say "x]}," \\ and \u2028 {["' * 40
    records = [record(reader, ("user", tricky + str(n)), ("assistant", "{")) for n in range(3000)]
    records[7] = {}
    lines = read_lines(tmp_path, reader, *records)
    path = tmp_path / f"array.json{suffix}"
    path.write_bytes(COMPRESSORS[suffix](json.dumps(records, indent=indent).encode()))
    array = read_all(reader, path)
    assert len(array) == len(lines) == 3000
    assert [said(d) for d in array if isinstance(d, Dialogue)] == [
        said(d) for d in lines if isinstance(d, Dialogue)
    ]
    bad = array[7]
    assert isinstance(bad, BadRecord)
    assert (bad.reason, bad.where) == ("missing_field", f"array.json{suffix}, record 8")
    last = array[-1]
    assert isinstance(last, Dialogue)
    assert (last.dialogue_id, last.source) == (f"array.json{suffix}-3000", "array")


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_an_array_that_ends_early(tmp_path: Path, suffix: str) -> None:
    text = json.dumps([record("sharegpt", ("human", f"{n}")) for n in range(1000)]).encode()
    cut = text[: text.index(b'"900"')]
    data = COMPRESSORS[suffix](cut)
    path = tmp_path / f"a.json{suffix}"
    for ending in (data, data[:-3]):  # the array is not closed; nor is the compressed file
        path.write_bytes(ending)
        *good, bad = read_all("sharegpt", path)
        assert isinstance(bad, BadRecord)
        # Where nothing at all can be read, it is not known to be an array.
        unit = "record" if good or suffix != ".zst" or ending is data else "line"
        assert (bad.reason, bad.where) == ("truncated", f"a.json{suffix}, {unit} {len(good) + 1}")
        assert [said(d) for d in good] == [[("user", str(n))] for n in range(len(good))]
    path.write_bytes(data)
    assert len(read_all("sharegpt", path)) == 901


def test_bad_elements_of_an_array(tmp_path: Path) -> None:
    good = json.dumps(record("messages", ("user", "hi"))).encode()
    long = json.dumps(record("messages", ("user", "y" * 500))).encode()
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + b", ".join([good, b"{bad}", b'"\xff"', long, b"3", good]) + b",]\n")
    records = read_all("messages", path, max_record_bytes=400)
    assert [r.reason if isinstance(r, BadRecord) else said(r) for r in records] == [
        [("user", "hi")], "not_json", "not_utf8", "too_long", "wrong_type", [("user", "hi")],
    ]  # fmt: skip


def test_json_lines_may_be_called_json_and_an_empty_array_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('\n{"messages": [{"role": "user", "content": "hi"}]}\n', encoding="utf-8")
    (dialogue,) = read_all("messages", path)
    assert isinstance(dialogue, Dialogue)
    assert dialogue.dialogue_id == "a.json-2"
    path.write_text(" [ ] ", encoding="utf-8")
    assert read_all("messages", path) == []


def test_parquet(tmp_path: Path) -> None:
    rows = [
        record("messages", ("system", "s"), ("user", f"{n}"), ("assistant", "b"), thread_id=f"t{n}")
        for n in range(2500)
    ]
    rows[3]["messages"] = None
    rows[4]["messages"] = []
    rows[5]["messages"][1]["content"] = "y" * 5000
    path = tmp_path / "m.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=700)
    records = read_all("messages", path, max_record_bytes=4000)
    assert len(records) == 2500
    for number, dialogue in enumerate(records):
        if number not in (3, 4, 5):
            assert said(dialogue) == [("user", f"{number}"), ("assistant", "b")]
            assert isinstance(dialogue, Dialogue)
            assert dialogue.dialogue_id == f"m.parquet-{number + 1}"
            assert (dialogue.thread_id, dialogue.source) == (f"t{number}", "m")
    assert [(r.reason, r.where) for r in records if isinstance(r, BadRecord)] == [
        ("missing_field", "m.parquet, row 4"),
        ("no_turns", "m.parquet, row 5"),
        ("too_long", "m.parquet, row 6"),
    ]


def test_damaged_parquet(tmp_path: Path) -> None:
    """Texts that are not UTF-8, pages that are no pages, a file without its end."""
    good = record("messages", ("user", "hello"), id="a")
    path = tmp_path / "m.parquet"
    table = pa.Table.from_pylist([good, good, good])
    pq.write_table(table, path, row_group_size=1, compression="none", use_dictionary=False)
    data = path.read_bytes()
    middle = data.index(b"hello", data.index(b"hello") + 5)
    while data.count(b"hello", 0, middle) < 3:  # the statistics hold it as well
        middle = data.index(b"hello", middle + 1)
    path.write_bytes(data.replace(b"hello", b"hell\xff"))
    assert [r.reason for r in read_all("messages", path) if isinstance(r, BadRecord)] == [
        "not_utf8"
    ] * 3
    path.write_bytes(data[: len(data) // 2])
    (bad,) = read_all("messages", path)
    assert isinstance(bad, BadRecord)
    assert (bad.reason, bad.where) == ("truncated", "m.parquet, row 1")
    assert str(tmp_path) not in bad.sample
    path.write_bytes(data[:4] + bytes(40) + data[44:])
    *_, bad = read_all("messages", path)
    assert isinstance(bad, BadRecord)
    assert bad.reason == "truncated"


def test_parquet_without_messages(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "id": ["1", "2"]}), path)
    assert read_all("messages", path) == [
        BadRecord(
            "missing_field",
            f"m.parquet, row {row}",
            f"{{'text': '{text}', 'id': '{row}'}}",
            "the fields text, id are of no known layout; name them in corpus.columns",
        )
        for row, text in ((1, "a"), (2, "b"))
    ]
