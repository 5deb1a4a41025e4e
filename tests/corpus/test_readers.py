"""The registry of readers, and the readers of data sets that come whole: chitchat and the hub's."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.readers import READERS as TABLE
from sage_core.corpus.readers.reader import Source
from sage_core.corpus.records import BadRecord, Record
from sage_core.corpus.sources import read, reader_of, sources
from sage_core.errors import ConfigError, DataError
from sage_core.schema import Dialogue

READERS = ["empathetic_dialogues", "pushshift", "convokit", "sharegpt", "messages"]
TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def read_all(reader: str, path: Path | None, **more: Any) -> list[Record]:
    config = CorpusConfig.model_validate({"reader": reader, "input": path, **more})
    return [record for source in sources(config) for record in read(source, config)]


def dialogues(records: list[Record]) -> list[Dialogue]:
    assert [record for record in records if not isinstance(record, Dialogue)] == []
    return [record for record in records if isinstance(record, Dialogue)]


def texts(dialogue: Dialogue) -> list[str]:
    roles = [message.role for message in dialogue.messages]
    assert roles == [("user", "assistant")[turn % 2] for turn in range(len(roles))]
    return [message.content for message in dialogue.messages]


def test_which_readers_yield_posts() -> None:
    assert {*READERS, "chitchat", "hf"} <= set(TABLE.names)
    readers = {name: reader_of(CorpusConfig(reader=name)) for name in TABLE.names}
    assert [name for name, reader in readers.items() if reader.posts] == ["pushshift", "convokit"]


@pytest.mark.parametrize(
    ("reader", "known"),
    [
        (
            "pushshift",
            ["RC_2007-10", "RS_x", "a.bz2", "a.gz", "a.json", "a.jsonl", "a.xz", "b.ndjson",
             "b/RC_2012-01.zst", "b/c/RC.ZST", "c.csv.gz", "p.parquet", "utterances.jsonl"],
        ),
        ("convokit", ["b/utterances.jsonl", "d.zip", "utterances.jsonl"]),
        ("messages", ["a.json", "a.jsonl", "b.ndjson", "b/utterances.jsonl", "c.csv", "c.csv.gz",
                      "m.json.xz", "p.parquet", "utterances.jsonl"]),
        ("empathetic_dialogues", ["c.csv", "c.csv.gz", "p.parquet"]),
    ],
)  # fmt: skip
def test_a_folder_is_searched_for_what_the_reader_knows(
    tmp_path: Path, reader: str, known: list[str]
) -> None:
    never = ["README", "README.md", "SHA256SUMS", ".cache/a.jsonl", "b/.a.jsonl", "._c.csv"]
    others = ["RC_2007-10", "RS_x", "a.bz2", "a.gz", "a.xz", "b/RC_2012-01.zst", "b/c/RC.ZST"]
    files = {*known, *never, "c.csv", "c.csv.gz", "p.parquet", "m.json.xz", "b/utterances.jsonl"}
    if reader != "pushshift":
        files |= set(others)
    else:
        known = sorted([*known, "m.json.xz", "b/utterances.jsonl"])
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.json.zip.csv.parquet.zst").mkdir()
    config = CorpusConfig.model_validate({"reader": reader, "input": tmp_path})
    assert sources(config) == [Source(tmp_path / name, name) for name in known]


@pytest.mark.parametrize("reader", READERS)
def test_wrong_inputs_are_named(tmp_path: Path, reader: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{reader}' needs corpus\.input"):
        read_all(reader, None)
    with pytest.raises(DataError, match=r"none' does not exist"):
        read_all(reader, tmp_path / "none")
    (tmp_path / "README.md").touch()
    with pytest.raises(DataError, match=rf"no file of the reader '{reader}', which reads .*\*\."):
        read_all(reader, tmp_path)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("name", "data", "bad"),
    [
        ("x.json", b'{"meta": {"conv_id": 1}, "n": [1, 2]}\n' * 20, 20),
        ("x.csv", b"name,age,town,street,a,b\n" + b"Ann,3,Rome,x,1,2\n" * 19, 20),
        ("x.bin", bytes(range(128, 256)) * 100, 1),
        ("x.parquet", b"PAR1" + bytes(100) + b"PAR1", 1),
        ("x.zip", b"PK\x03\x04" + bytes(100), 1),
        ("x.zst", b"no frame", 1),
        ("x.txt", b"", 0),
    ],
)
def test_the_wrong_reader_for_a_file(
    tmp_path: Path, reader: str, name: str, data: bytes, bad: int
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    records = read_all(reader, path)
    if name == "x.csv" and reader in ("messages", "sharegpt"):
        bad -= 1  # these readers know the first line for a header
    assert len(records) == bad
    for record in records:
        assert isinstance(record, BadRecord), record
        assert record.where.startswith(name)
        assert str(tmp_path) not in record.sample


@pytest.mark.parametrize("reader", [name for name in READERS if name != "sharegpt"])
def test_other_peoples_files_are_refused_record_by_record(tmp_path: Path, reader: str) -> None:
    mine = {
        "messages": {"messages": TALK},
        "pushshift": {"id": "a", "link_id": "t3_b", "body": "x", "subreddit": "s"},
        "convokit": {"id": "a", "root": "a", "speaker": "s", "text": "x"},
        "empathetic_dialogues": {"conv_id": "x", "utterance_idx": 1},
    }
    others = [json.dumps(record) for name, record in mine.items() if name != reader]
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(others * 3), encoding="utf-8")
    reasons = Counter(r.reason if isinstance(r, BadRecord) else r for r in read_all(reader, path))
    assert reasons == {"missing_field": 3 * len(others)}


def test_chitchat_joins_the_messages_of_a_turn() -> None:
    """The packaged data, by hand: a turn is a list of one sender's messages."""
    import chitchat_dataset

    raw = json.loads(
        (Path(chitchat_dataset.__file__).parent / "dataset.json").read_text(encoding="utf-8")
    )
    assert sources(CorpusConfig()) == [Source(None, "chitchat")]
    read_back = dialogues(read_all("chitchat", None))
    assert len(read_back) == len(raw) == 7168
    assert len({dialogue.dialogue_id for dialogue in read_back}) == 7168
    for dialogue in read_back[::500]:
        turns = raw[dialogue.dialogue_id]["messages"]
        assert texts(dialogue) == [" ".join(part["text"] for part in turn) for turn in turns]
        assert dialogue.thread_id == dialogue.dialogue_id
        assert dialogue.source == "chitchat"


def test_chitchat_has_its_data_packaged(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has its data packaged"):
        read_all("chitchat", tmp_path)


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What ``datasets`` is asked for is on this disk, and what it caches goes to the test's."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("saved", ["folder", "dataset_dict", "dataset"])
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("messages", [{"role": "system", "content": "be kind"}, *TALK]),
        ("conversations", [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]),
        ("dialog", ["hi", "hello"]),
        ("dialogue", ["hi", "hello"]),
        ("utterances", ["hi", "hello"]),
    ],
)
def test_hf(tmp_path: Path, saved: str, column: str, value: list[Any]) -> None:
    import datasets

    rows = [{column: value, "id": "x", "other": 1}, {column: value, "id": None, "other": 2}]
    bad = [{column: [], "id": "y", "other": 3}, {column: None, "id": "z", "other": 4}]
    splits = {
        "train": datasets.Dataset.from_list([*rows, *bad]),
        "test": datasets.Dataset.from_list(rows),
    }
    folder = tmp_path / "talks"
    names = ["train", "test"]
    if saved == "folder":
        folder.mkdir()
        for name, split in splits.items():
            split.to_parquet(folder / f"{name}.parquet")
    elif saved == "dataset_dict":
        datasets.DatasetDict(splits).save_to_disk(folder)
    else:
        splits["train"].save_to_disk(folder)
        names = ["all"]
    config = CorpusConfig(reader="hf", input=folder)
    assert sources(config) == [Source(folder, "talks")]
    records = read_all("hf", folder)
    good = [record for record in records if isinstance(record, Dialogue)]
    assert [texts(dialogue) for dialogue in good] == [["hi", "hello"]] * 2 * len(names)
    assert sorted(dialogue.dialogue_id for dialogue in good) == sorted(
        [f"talks/{name}-2" for name in names] + ["x"] * len(names)
    )
    assert {dialogue.source for dialogue in good} == {"talks"}
    assert [
        (record.reason, record.where) for record in records if isinstance(record, BadRecord)
    ] == [("no_turns", f"talks/{names[0]}, row 3"), ("missing_field", f"talks/{names[0]}, row 4")]


@pytest.mark.parametrize(
    ("column", "value", "opens", "has_roles"),
    [
        ("messages", [{"role": "assistant", "content": "yo"}, *TALK], "assistant", True),
        ("conversations", [{"from": "gpt", "value": "yo"}, {"from": "human", "value": "hi"},
                           {"from": "gpt", "value": "hello"}], "assistant", True),
        ("dialog", ["yo", "hi", "hello"], "user", False),
    ],
)  # fmt: skip
def test_hf_keeps_the_roles_of_columns_that_have_them(
    tmp_path: Path, column: str, value: list[Any], opens: str, has_roles: bool
) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps({column: value}) + "\n", encoding="utf-8")
    (dialogue,) = dialogues(read_all("hf", tmp_path))
    assert [message.content for message in dialogue.messages] == ["yo", "hi", "hello"]
    assert dialogue.messages[0].role == opens
    assert dialogue.has_roles == has_roles


def test_hf_names_the_columns_it_found(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"label": "x", "score": "y"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"fields label, score .*corpus\.columns"):
        read_all("hf", tmp_path)


def test_hf_without_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be loaded as a data set"):
        read_all("hf", tmp_path / "empty")
    name = CorpusConfig(reader="hf", input=Path("nobody/nothing"))
    assert sources(name) == [Source(Path("nobody/nothing"), "nobody/nothing")]
