"""EmpatheticDialogues: the published CSV, which quotes nothing, and the hub's forms."""

import gzip
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.readers.empathetic_dialogues import read_situations
from sage_core.corpus.records import BadRecord, Post, Record
from sage_core.corpus.sources import read, sources
from sage_core.errors import DataError
from sage_core.schema import Dialogue

HEADER = "conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"
DATA = Path(os.environ.get("SAGE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
VALID = DATA / "empathetic_dialogues" / "valid.csv"


def row(conv: str, index: object, speaker: object, utterance: str) -> str:
    return f"{conv},{index},sad,I lost it_comma_ all. ,{speaker},{utterance},5|5|5_2|2|5,"


def read_all(path: Path, **more: Any) -> list[Record]:
    config = CorpusConfig.model_validate({"reader": "empathetic_dialogues", "input": path, **more})
    return [record for source in sources(config) for record in read(source, config)]


def read_csv(tmp_path: Path, *rows: str | bytes, **more: Any) -> list[Record]:
    path = tmp_path / "ed.csv"
    lines = [line if isinstance(line, bytes) else line.encode() for line in (HEADER, *rows)]
    path.write_bytes(b"\n".join(lines))
    return read_all(path, **more)


def summary(records: list[Record]) -> list[object]:
    """What was said, or (reason, where)."""
    return [
        (record.reason, record.where)
        if isinstance(record, BadRecord)
        else [message.content for message in record.messages]
        for record in records
        if not isinstance(record, Post)
    ]


def test_quotes_commas_and_order(tmp_path: Path) -> None:
    (dialogue,) = read_csv(
        tmp_path,
        row("hit:1_conv:2", 3, 0, ' He said "no_comma_ never.'),
        row("hit:1_conv:2", 1, 0, '"Hi_comma_ you  '),
        row("hit:1_conv:2", 10, 1, "''Right\"\""),
        row("hit:1_conv:2", 2, 1, "What? "),
        row("hit:1_conv:2", 4, 0, "So there.\r"),
    )
    assert isinstance(dialogue, Dialogue)
    assert [(message.role, message.content) for message in dialogue.messages] == [
        ("user", '"Hi, you'),
        ("assistant", "What?"),
        ("user", 'He said "no, never. So there.'),
        ("assistant", "''Right\"\""),
    ]
    assert (dialogue.dialogue_id, dialogue.thread_id) == ("hit:1_conv:2", "hit:1_conv:2")
    assert dialogue.source == "empathetic_dialogues"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("B,2,sad,p", "missing_field"),
        ("B", "missing_field"),
        (row("B", "two", 1, "x"), "wrong_type"),
        (row("B", "", 1, "x"), "missing_field"),
        (row("B", 2, "", "x"), "missing_field"),
        (row("B", 2, 1, "x").encode() + b"\xff", "not_utf8"),
        (row("B", 2, 1, "x" * 900), "too_long"),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_bad_row_costs_its_conversation(
    tmp_path: Path, bad: str | bytes, reason: str, place: int
) -> None:
    rows: list[str | bytes] = [row("B", 1, 0, "b"), row("B", 3, 1, "b")]
    rows.insert(place, bad)
    records = read_csv(
        tmp_path,
        row("A", 1, 0, "a"),
        *rows,
        row("C", 1, 0, "c"),
        row("C", 2, 1, "cc"),
        max_record_bytes=500,
    )
    assert summary(records) == [["a"], (reason, f"ed.csv, line {3 + place}"), ["c", "cc"]]


def test_a_row_of_no_conversation_costs_itself(tmp_path: Path) -> None:
    records = read_csv(
        tmp_path,
        "rubbish",
        row("A", 1, 0, "a"),
        "more rubbish,x",
        row("A", 2, 1, "aa"),
        row("", 1, 0, "nobody's"),
        "the end",
    )
    assert sorted(map(str, summary(records))) == sorted(
        map(
            str,
            [
                ["a", "aa"],
                ("missing_field", "ed.csv, line 2"),
                ("missing_field", "ed.csv, line 4"),
                ("missing_field", "ed.csv, line 6"),
                ("missing_field", "ed.csv, line 7"),
            ],
        )
    )


def test_a_conversation_that_the_end_of_a_damaged_file_may_cut_off(tmp_path: Path) -> None:
    lines = [HEADER]
    for number in range(5000):
        lines += [row(f"c{number}", turn, turn % 2, f"{number * 7919}") for turn in (1, 2)]
    data = gzip.compress("\n".join(lines).encode())
    path = tmp_path / "ed.csv.gz"
    path.write_bytes(data[: len(data) // 2])
    *good, bad = read_all(path)
    assert isinstance(bad, BadRecord)
    assert bad.reason == "truncated"
    assert 1000 < len(good) < 4000
    assert summary(good) == [[f"{number * 7919}"] * 2 for number in range(len(good))]
    path.write_bytes(data)
    assert len(read_all(path)) == 5000


def test_other_columns_and_their_order(tmp_path: Path) -> None:
    path = tmp_path / "hub.csv"
    path.write_text(
        "n,utterance,speaker_idx,prompt,context,utterance_idx,conv_id\n"
        "0,hi,0,p,sad,1,A\n1,hello,1,p,sad,2,A\n",
        encoding="utf-8",
    )
    assert summary(read_all(path)) == [["hi", "hello"]]


def test_a_file_without_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n1,2\n1,2\n", encoding="utf-8")
    assert summary(read_all(path)) == [("missing_field", f"x.csv, line {n}") for n in (1, 2, 3, 4)]
    assert list(read_situations(path)) == []


@pytest.mark.parametrize("number", [int, str])
def test_parquet(tmp_path: Path, number: Any) -> None:
    rows: list[dict[str, Any]] = [
        {"conv_id": f"c{n}", "utterance_idx": number(turn), "context": "sad",
         "prompt": "all_comma_ gone ", "speaker_idx": number(turn % 2), "utterance": f" {n}_comma_",
         "selfeval": "", "tags": ""}
        for n in range(1500) for turn in (2, 1, 3)
    ]  # fmt: skip
    rows[4]["utterance"] = None
    path = tmp_path / "ed.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=100)
    records = read_all(path)
    bad = records.pop(1)
    assert isinstance(bad, BadRecord)
    assert (bad.reason, bad.where) == ("missing_field", "ed.parquet, row 5")
    assert summary(records) == [[f"{n},"] * 3 for n in range(1500) if n != 1]
    situations = list(read_situations(path))
    assert situations == [(f"c{n}", "all, gone", "sad") for n in range(1500) if n != 1]


def test_parquet_without_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"conv_id": ["a", "a"]}), path)
    assert summary(read_all(path)) == [("missing_field", f"x.parquet, row {n}") for n in (1, 2)]


def test_situations(tmp_path: Path) -> None:
    read_csv(
        tmp_path, row("A", 2, 1, "aa"), row("A", 1, 0, "a"), "B,1", row("C", 1, 0, "c"), "rubbish"
    )
    assert list(read_situations(tmp_path / "ed.csv")) == [
        ("A", "I lost it, all.", "sad"),
        ("C", "I lost it, all.", "sad"),
    ]
    with pytest.raises(DataError, match="does not exist"):
        list(read_situations(tmp_path / "none.csv"))


@pytest.mark.skipif(
    not VALID.is_file(), reason=f"{VALID} is missing; SAGE_TEST_DATA names its folder"
)
def test_the_published_validation_part() -> None:
    """2,762 conversations, none lost: their ids and rows counted by hand from the lines."""
    lines = VALID.read_text(encoding="utf-8").splitlines()[1:]
    rows = Counter(line.split(",")[0] for line in lines)
    records = read_all(VALID)
    assert [r for r in records if isinstance(r, BadRecord)] == []
    dialogues = {r.dialogue_id: r for r in records if isinstance(r, Dialogue)}
    assert len(records) == len(dialogues) == len(rows) == 2762
    assert dialogues.keys() == rows.keys()
    words = sum(len(line.split(",")[5].replace("_comma_", ",").split()) for line in lines)
    read_words = sum(
        len(message.content.split()) for d in dialogues.values() for message in d.messages
    )
    assert read_words == words
    assert not any("_comma_" in m.content for d in dialogues.values() for m in d.messages)
    situations = list(read_situations(VALID))
    assert [conv_id for conv_id, _, _ in situations] == list(dialogues)
    assert len({emotion for _, _, emotion in situations}) == 32
    assert all(prompt and prompt == prompt.strip() for _, prompt, _ in situations)
