"""Situations: the embedded ones, files of one's own, and errors."""

import gzip
import json
import lzma
from pathlib import Path

import pytest

from sage_core.config.conversation import SituationsConfig
from sage_core.errors import DataError
from sage_core.search.situations import situations


def test_the_embedded_halves_share_nothing_and_cover_32_emotions_each() -> None:
    search = situations(SituationsConfig(), "search", 0)
    evaluation = situations(SituationsConfig(), "evaluation", 0)
    assert len(search) == len(evaluation) == 64
    assert not {s.text for s in search} & {s.text for s in evaluation}
    assert len({s.situation_id for s in (*search, *evaluation)}) == 128
    assert {s.emotion for s in search} == {s.emotion for s in evaluation}
    assert len({s.emotion for s in search}) == 32


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (0, list(range(10))),
        (10, list(range(10))),
        (99, list(range(10))),
        (1, [0]),
        (3, [0, 3, 6]),  # 10 * (0, 1, 2) // 3
        (4, [0, 2, 5, 7]),
    ],
)
def test_a_limit_spreads_over_the_file(tmp_path: Path, limit: int, expected: list[int]) -> None:
    path = tmp_path / "situations.jsonl"
    lines = [
        {"situation_id": f"{split}{n}", "text": f"{n}", "emotion": "sad", "split": split}
        for n in range(10)
        for split in ("evaluation", "search")
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    found = situations(SituationsConfig(path=path), "search", limit)
    assert [situation.situation_id for situation in found] == [f"search{n}" for n in expected]


GOOD = '{"situation_id": "a", "text": "t", "emotion": "e", "split": "search"}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "situations.jsonl', line 1, is not a situation"),
        ('{"situation_id": "a"}', "line 1, is not a situation"),
        (GOOD.replace("emotion", "mood"), "situation_id, text, emotion and split"),
        (f"{GOOD}\n\n[1]", "line 3, is not a situation"),
        (GOOD.replace('"t"', "7"), "line 1: text = 7 is not a text"),
        (f"{GOOD}\n{GOOD}", "uses a situation_id twice"),
        (GOOD.replace("search", "evaluation"), "no situation has split 'search'"),
        ("", "no situation has split 'search'"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "situations.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        situations(SituationsConfig(path=path), "search", 0)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.jsonl' does not exist"):
        situations(SituationsConfig(path=tmp_path / "none.jsonl"), "search", 0)


def empathetic_dialogues(path: Path, conversations: int) -> None:
    rows = ["conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags"]
    for number in range(conversations):
        prompt = f"I lost my keys_comma_ number {number}."
        rows += [f"{path.stem}:{number},{turn},sad,{prompt},{turn % 2},Oh no.,," for turn in (1, 2)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def test_empathetic_dialogues_in_its_parts(tmp_path: Path) -> None:
    for name, size in (("train", 3), ("valid", 4), ("test", 2)):
        empathetic_dialogues(tmp_path / f"{name}.csv", size)
    config = SituationsConfig(path=tmp_path)
    search = situations(config, "search", 0)
    assert [s.situation_id for s in search] == ["train:0", "train:1", "train:2"]
    assert (search[0].text, search[0].emotion) == ("I lost my keys, number 0.", "sad")
    assert [s.situation_id for s in situations(config, "evaluation", 0)] == ["test:0", "test:1"]


def test_one_file_of_empathetic_dialogues_is_halved(tmp_path: Path) -> None:
    empathetic_dialogues(tmp_path / "valid.csv", 40)
    config = SituationsConfig(path=tmp_path / "valid.csv")
    halves = [situations(config, split, 0) for split in ("search", "evaluation")]
    ids = [[situation.situation_id for situation in half] for half in halves]
    assert len(ids[0]) + len(ids[1]) == 40
    assert not set(ids[0]) & set(ids[1])
    assert min(map(len, ids)) >= 10


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_a_file_may_be_compressed_and_hold_other_ends_of_lines(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"situations.jsonl{suffix}"
    text = GOOD.replace('"t"', '"one\u2028two\x85three"') + "\r\n"
    write = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[suffix]
    path.write_bytes(write(text.encode()))
    (found,) = situations(SituationsConfig(path=path), "search", 0)
    assert found.text == "one\u2028two\x85three"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", f"{GOOD}\n{GOOD.replace('t', 'café')}".encode("latin-1"), "line 2, is not UTF"),
        ("x.jsonl.gz", GOOD.encode(), "not compressed as its suffix says"),
        ("x.jsonl.gz", gzip.compress(GOOD.encode(), mtime=0)[:-9], "ends early"),
        ("x.jsonl", gzip.compress(GOOD.encode(), mtime=0), "line 1, is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_line(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"situations.path = '.*{name}'.*{message}"):
        situations(SituationsConfig(path=tmp_path / name), "search", 0)
