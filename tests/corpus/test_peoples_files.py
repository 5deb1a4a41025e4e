"""Inputs as people have them: odd ends of lines, names, identifiers and folders."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.build import load_funnel, training_dialogues
from sage_core.corpus.card import CARD
from sage_core.corpus.ingest import load_quarantine
from sage_core.corpus.names import Names, unique
from sage_core.corpus.readers.fields import FieldError, identifier
from sage_core.corpus.records import DIALOGUES, REJECTED
from sage_core.corpus.sources import read, sources
from sage_core.corpus.tables import ROW_GROUP_BYTES, RowWriter, read_dialogues, row_groups_in
from sage_core.errors import DataError
from sage_core.schema import Dialogue, Rejection, with_roles
from sage_core.steps.local import build_corpus
from sage_core.storage import digest, read_rows
from tasks.inputs import source_hash


def talk(*said: str, **more: object) -> dict[str, Any]:
    roles = ("user", "assistant")
    turns = [{"role": roles[n % 2], "content": text} for n, text in enumerate(said)]
    return {"messages": turns, **more}


def write_lines(path: Path, rows: Sequence[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def built(path: Path, output: Path, **more: object) -> list[Dialogue]:
    settings = {"reader": "messages", "input": path, "rules": (), **more}
    build_corpus(CorpusConfig.model_validate(settings), output)
    return read_rows(output / DIALOGUES, Dialogue)


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85"])
def test_other_ends_of_lines_in_a_sample_of_a_bad_record(tmp_path: Path, end: str) -> None:
    path = write_lines(tmp_path / "x.jsonl", [talk("a", "b")] * 3)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(f'{{"text": "one{end}two"}}\n')
    assert len(built(path, tmp_path / "out", max_bad_share=0.5)) == 3
    (sample,) = load_quarantine(tmp_path / "out")
    assert (sample.reason, sample.where) == ("missing_field", "x.jsonl, line 4")
    assert f"one{end}two" in sample.sample


def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    good = write_lines(folder / "good.jsonl", [talk("a", "b")])
    name = os.fsdecode(b"caf\xe9.jsonl")
    (folder / name).write_bytes(good.read_bytes())
    table = os.fsdecode(b"caf\xe9.parquet")
    with (folder / table).open("wb") as stream:
        pq.write_table(pa.Table.from_pylist([talk("c", "d")]), stream)
    found = built(folder, tmp_path / "out")
    assert [row.dialogue_id for row in found] == [
        "caf\\xe9.jsonl-1", "caf\\xe9.parquet-1", "good.jsonl-1"
    ]  # fmt: skip
    assert source_hash(folder)
    assert digest(name) != digest("caf\\xe9.jsonl")
    built(folder / name, tmp_path / "one")
    assert "# Dialogues from caf\\xe9.jsonl" in (tmp_path / "one" / CARD).read_text("utf-8")


def test_an_empty_chat_among_sixty_is_counted_and_stops_nothing(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", [talk("a", "b")] * 59 + [talk()])
    assert len(built(path, tmp_path / "out")) == 59
    first = load_funnel(tmp_path / "out")[0]
    assert (first["kept"], first["quarantined"], first["records"]["read"]) == (59, 1, 60)
    assert [each.reason for each in load_quarantine(tmp_path / "out")] == ["no_turns"]
    bad = write_lines(tmp_path / "y.jsonl", [talk("a", "b")] * 57 + [talk(), talk(), {"x": 1}])
    with pytest.raises(DataError, match=r"1 of 60 .*\(missing_field: 1\).* is y.jsonl, line 60 "):
        built(bad, tmp_path / "bad")


@pytest.mark.parametrize("rules", [("turns",), ("turns", "exact_duplicate")])
def test_names_that_repeat_across_files_are_made_unique(tmp_path: Path, rules: Any) -> None:
    for part in ("a", "b", "c"):
        said = [f"{part} {n}" for n in range(4)]
        rows = [talk(said[n], *said[:n], id=n) for n in range(4)]
        write_lines(tmp_path / "in" / f"{part}.jsonl", [*rows, talk(f"{part} x", "y", id="1#2")])
    settings = {"rules": rules, "min_turns": 2, "max_dialogues": 10}
    found = built(tmp_path / "in", tmp_path / "out", **settings)
    assert [row.dialogue_id for row in found] == [
        "1", "2", "3", "1#2", "1#3", "2#2", "3#2", "1#2#2", "1#4", "2#3", "3#3", "1#2#3"
    ]  # fmt: skip
    dropped = read_rows(tmp_path / "out" / REJECTED, Rejection)
    assert [row.dialogue_id for row in dropped] == ["0", "0#2", "0#3"]
    # What is drawn is as many as asked for.
    config = CorpusConfig.model_validate(settings)
    assert len(training_dialogues(tmp_path / "out", config, 0)) == 10
    assert len({row.dialogue_id for row in found}) == 12


def test_names_that_do_not_repeat_stay() -> None:
    rows = [Rejection(name, "r") for name in ("a", "b", "a#2", "a", "a")]
    assert [row.dialogue_id for row in unique(rows)] == ["a", "b", "a#2", "a#3", "a#4"]
    assert not Names(())
    assert Names(("a",)).of(rows[1]) is rows[1]


@pytest.mark.parametrize("where", ["", "corpus", "deep/corpus"])
def test_an_output_folder_in_the_input_is_refused(tmp_path: Path, where: str) -> None:
    path = write_lines(tmp_path / "in" / "x.jsonl", [talk("a", "b")])
    with pytest.raises(DataError, match=r"the output folder .* corpus\.input = .*outside of it"):
        built(path.parent, tmp_path / "in" / where)
    assert [each.name for each in path.parent.iterdir()] == ["x.jsonl"]


def test_an_output_folder_with_the_input_file_is_used_unless_it_is_overwritten(
    tmp_path: Path,
) -> None:
    path = write_lines(tmp_path / "x.jsonl", [talk("a", "b")])
    assert len(built(path, tmp_path)) == len(built(path, tmp_path)) == 1
    with pytest.raises(DataError, match="outside of it"):
        built(tmp_path / DIALOGUES, tmp_path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(12.0, "12"), (12, "12"), ("12.0", "12.0"), (float("nan"), "next"), (None, "next")],
)
def test_identifiers_as_pandas_writes_them(value: object, expected: str) -> None:
    assert identifier({"dialogue_id": value, "id": "next"}, "dialogue_id", "id") == expected


@pytest.mark.parametrize("value", [1.5, float("inf"), True, ["a"]])
def test_what_is_no_identifier(value: object) -> None:
    with pytest.raises(FieldError, match="wrong_type"):
        identifier({"id": value}, "id")


def test_a_table_of_pandas_with_float_identifiers(tmp_path: Path) -> None:
    rows = [talk("a", "b", id=7.0), talk("c", "d", id=float("nan"))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert [row.dialogue_id for row in built(tmp_path / "x.parquet", tmp_path / "out")] == [
        "7", "x.parquet-2"
    ]  # fmt: skip


def test_roots_of_convokit_that_reply_to_themselves(tmp_path: Path) -> None:
    rows = [
        {"id": name, "speaker": speaker, "root": "u0", "reply_to": to, "timestamp": n, "text": name}
        for n, (name, speaker, to) in enumerate([("u0", "a", "u0"), ("u1", "b", "u0")])
    ]
    write_lines(tmp_path / "in" / "utterances.jsonl", rows)
    found = built(tmp_path / "in", tmp_path / "out", reader="convokit")
    assert [[m.content for m in row.messages] for row in found] == [["u0", "u1"]]


def test_corpora_of_convokit_with_one_name_in_two_folders(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        row = {"id": "1", "speaker": "x", "root": "1", "reply_to": None, "text": folder}
        write_lines(tmp_path / folder / "movies" / "utterances.jsonl", [row])
    config = CorpusConfig(reader="convokit", input=tmp_path)
    posts = [post for source in sources(config) for post in read(source, config)]
    assert [(post.post_id, post.thread_id) for post in posts] == [  # type: ignore[union-attr]
        ("a/movies/1", "a/movies/1"), ("b/movies/1", "b/movies/1")
    ]  # fmt: skip


def test_row_groups_are_bounded_by_bytes(tmp_path: Path) -> None:
    """A deep tree has long paths, of which 5,000 would not fit in memory."""
    long = "x" * (ROW_GROUP_BYTES // 4)
    with RowWriter(tmp_path / "x.parquet", Dialogue) as writer:
        for number in range(10):
            writer.write(Dialogue(str(number), "s", "t", with_roles([long])))
        for number in range(10, 100):
            writer.write(Dialogue(str(number), "s", "t", with_roles(["short"])))
    assert row_groups_in(tmp_path / "x.parquet") == 3
    names = [row.dialogue_id for row in read_dialogues(tmp_path / "x.parquet")]
    assert names == [str(number) for number in range(100)]
