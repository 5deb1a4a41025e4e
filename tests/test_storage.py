"""Artefacts: whole or not at all, checked byte for byte; tables: what is written is read."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_core.errors import ArtifactError, DataError
from sage_core.schema import (
    ARROW_SCHEMAS,
    AnnotatedDialogue,
    AnnotatedTurn,
    BenchmarkDocument,
    Candidate,
    Dialogue,
    Judgement,
    Message,
    PreferencePair,
    Rejection,
    ScoredDialogue,
    ScoredTurn,
    SearchNode,
    Showing,
    Situation,
    TrainingDialogue,
    Trajectory,
    TrajectoryTurn,
)
from sage_core.storage import (
    MANIFEST,
    ArtifactStore,
    digest,
    read_json,
    read_rows,
    shards,
    write_rows,
)


def write_two(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "a.txt").write_text("one", encoding="utf-8")
    (folder / "sub" / "b.txt").write_text("three", encoding="utf-8")


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_built_artefact_is_verified_and_says_where_it_is_from(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "home" / "artifacts")
    ref = store.build("stage/m1", write_two, {"seed": 3})
    assert store.verify(ref)
    assert ref.path == "stage/m1"
    assert ref.bytes == len("one") + len("three")
    manifest = store.manifest(ref)
    assert manifest["seed"] == 3
    assert set(manifest["files"]) == {"a.txt", "sub/b.txt"}
    assert manifest["reference"]["sha256"] == ref.sha256
    assert everything(store.root) == [
        "stage", "stage/m1", "stage/m1/a.txt", "stage/m1/manifest.json", "stage/m1/sub",
        "stage/m1/sub/b.txt",
    ]  # fmt: skip


def test_the_hash_depends_on_the_content_only(tmp_path: Path) -> None:
    def other(folder: Path) -> None:
        write_two(folder)
        (folder / "a.txt").write_text("two", encoding="utf-8")  # as many bytes

    here, there = ArtifactStore(tmp_path / "here"), ArtifactStore(tmp_path / "there")
    ref = here.build("x", write_two, {"seed": 1})
    assert there.build("x", write_two, {"seed": 2}) == ref
    assert there.build("x", other, {}).sha256 != ref.sha256


@pytest.mark.parametrize("error", [ValueError("a bug"), DataError("bad input"), KeyboardInterrupt])
def test_a_writer_that_raises_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    def write(folder: Path) -> None:
        write_two(folder)
        raise error

    store = ArtifactStore(tmp_path)
    with pytest.raises((ValueError, DataError, KeyboardInterrupt)):
        store.build("x", write, {})
    assert everything(tmp_path) == []


def test_nothing_is_visible_before_the_writer_is_done(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)

    def write(folder: Path) -> None:
        write_two(folder)
        assert not (tmp_path / "x").exists()
        assert not (folder / MANIFEST).exists()

    store.build("x", write, {})


def change(folder: Path) -> None:
    (folder / "a.txt").write_text("one"[::-1], encoding="utf-8")


def remove(folder: Path) -> None:
    (folder / "sub" / "b.txt").unlink()


def add(folder: Path) -> None:
    (folder / "sub" / "c.txt").touch()


def rename(folder: Path) -> None:
    (folder / "a.txt").rename(folder / "c.txt")


def forget(folder: Path) -> None:
    (folder / MANIFEST).unlink()


@pytest.mark.parametrize("damage", [change, remove, add, rename, forget])
def test_verify_finds_damage(tmp_path: Path, damage: Any) -> None:
    store = ArtifactStore(tmp_path)
    ref = store.build("x", write_two, {})
    damage(store.folder(ref))
    assert not store.verify(ref)


def test_an_artefact_is_replaced_whole(tmp_path: Path) -> None:
    def other(folder: Path) -> None:
        (folder / "new.txt").write_text("new", encoding="utf-8")

    store = ArtifactStore(tmp_path)
    old = store.build("x", write_two, {})
    new = store.build("x", other, {})
    assert store.verify(new)
    assert not store.verify(old)
    assert everything(tmp_path) == ["x", "x/manifest.json", "x/new.txt"]


def test_a_full_disk_while_writing(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        write_two(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    store = ArtifactStore(tmp_path)
    with pytest.raises(ArtifactError, match="No space left on device") as caught:
        store.build("deep/x", write, {})
    assert "SAGE_HOME" in str(caught.value)
    assert everything(tmp_path) == ["deep"]


OVER_THE_LIMIT = """
import resource, sys
from pathlib import Path
import numpy
from safetensors.numpy import save_file
from sage_core.errors import ArtifactError
from sage_core.storage import ArtifactStore
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
store = ArtifactStore(Path(sys.argv[1]))
try:
    store.build("sft/m1", lambda to: save_file({"a": numpy.zeros(9999)}, to / "x.safetensors"), {})
except ArtifactError as error:
    print(error, type(error.__cause__).__name__)
"""


def test_a_library_that_raises_an_error_of_its_own_when_the_disk_refuses(tmp_path: Path) -> None:
    """safetensors under a limit of the size of files, which takes no administrator to set."""
    done = subprocess.run(
        [sys.executable, "-c", OVER_THE_LIMIT, str(tmp_path)], capture_output=True, text=True
    )
    assert "'sft/m1' could not be written" in done.stdout, done.stderr
    assert "SAGE_HOME" in done.stdout
    assert done.stdout.endswith("SafetensorError\n")
    assert everything(tmp_path) == ["sft"]


@pytest.mark.parametrize(
    ("error", "of_the_disk"),
    [
        (RuntimeError("serializing: No space left on device (os error 28)"), True),
        (RuntimeError("IO Error: Could not write file: No space left on device"), True),
        (RuntimeError("No such file or directory (os error 2)"), False),
        (FileNotFoundError(errno.ENOENT, "No such file"), False),
        (ValueError("28"), False),
    ],
)
def test_which_errors_are_the_disks(tmp_path: Path, error: Exception, of_the_disk: bool) -> None:
    def write(folder: Path) -> None:
        raise error

    with pytest.raises(ArtifactError if of_the_disk else type(error)):
        ArtifactStore(tmp_path).build("x", write, {})


def test_a_disk_that_refuses_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(tmp_path)

    def refuse(*paths: Any, **more: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "rename", refuse)
        with pytest.raises(ArtifactError, match="SAGE_HOME"):
            store.build("x", write_two, {})
    assert everything(tmp_path) == []
    assert store.verify(store.build("x", write_two, {}))


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="SAGE_HOME"):
        ArtifactStore(tmp_path / "file").build("x", write_two, {})


# Every Parquet text is UTF-8, which lone surrogates are not.
texts = st.text(st.characters(codec="utf-8"), max_size=6)
optional = st.none() | texts


scores = st.lists(st.floats(allow_nan=False), max_size=3).map(tuple)


def tuples(of: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(of, max_size=3).map(tuple)


messages = tuples(st.builds(Message, texts, texts))
RECORDS: dict[type, st.SearchStrategy[Any]] = {
    Dialogue: st.builds(Dialogue, texts, texts, texts, messages),
    Rejection: st.builds(Rejection, texts, texts),
    AnnotatedDialogue: st.builds(
        AnnotatedDialogue,
        texts,
        tuples(st.builds(AnnotatedTurn, texts, texts, optional, optional, tuples(texts))),
    ),
    ScoredDialogue: st.builds(
        ScoredDialogue,
        texts,
        tuples(
            st.builds(
                ScoredTurn,
                texts,
                texts,
                tuples(st.floats(allow_nan=False)),
                tuples(st.floats(allow_nan=False)),
            )
        ),
    ),
    Situation: st.builds(Situation, texts, texts, texts, st.sampled_from(["search", "evaluation"])),
    Trajectory: st.builds(
        Trajectory,
        texts,
        texts,
        texts,
        texts,
        tuples(
            st.builds(
                TrajectoryTurn,
                texts,
                texts,
                tuples(st.builds(Candidate, texts, st.floats(allow_nan=False), st.booleans())),
                st.integers(0, 9),
                tuples(texts),
            )
        ),
        texts,
        st.integers(0, 2**40),
    ),
    SearchNode: st.builds(
        SearchNode,
        texts,
        st.integers(0, 9),
        st.integers(-1, 9),
        st.sampled_from(["situation", "action", "reply", "look_ahead"]),
        texts,
        texts,
        st.none() | st.floats(allow_nan=False),
        st.booleans(),
    ),
    Showing: st.builds(
        Showing, texts, texts, st.integers(0, 9), st.integers(0, 9), st.none() | st.integers(0, 9)
    ),
    PreferencePair: st.builds(PreferencePair, messages, texts, texts),
    TrainingDialogue: st.builds(TrainingDialogue, messages),
    BenchmarkDocument: st.builds(
        BenchmarkDocument,
        *[st.text(max_size=9)] * 5,
        value=st.floats(allow_nan=False, allow_infinity=False),
    ),
    Judgement: st.builds(
        Judgement,
        texts,
        texts,
        texts,
        texts,
        st.sampled_from(["ab", "ba"]),
        st.sampled_from(["model_a", "model_b", "tie", "unparsed"]),
        texts,
    ),
}


def test_every_table_has_records_here() -> None:
    assert set(RECORDS) == set(ARROW_SCHEMAS)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_rows_are_read_as_written(record: type, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"

    @given(st.lists(RECORDS[record], max_size=4))
    def check(rows: list[Any]) -> None:
        write_rows(path, rows, record)
        assert read_rows(path, record) == rows
        assert pq.read_schema(path).equals(ARROW_SCHEMAS[record])

    check()


def test_a_folder_of_tables_is_read_in_order_of_name(tmp_path: Path) -> None:
    rows = [Rejection(str(number), "turns") for number in range(4)]
    write_rows(tmp_path / "part-2.parquet", rows[2:], Rejection)
    write_rows(tmp_path / "part-1.parquet", rows[:2], Rejection)
    (tmp_path / "notes.txt").touch()
    assert read_rows(tmp_path, Rejection) == rows


def test_spare_columns_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"note": ["x"], "reason": ["turns"], "dialogue_id": ["1"]}), path)
    assert read_rows(path, Rejection) == [Rejection("1", "turns")]


def test_a_column_of_a_field_with_a_default_may_be_missing(tmp_path: Path) -> None:
    """A trajectory table as it is published, without the columns that are ours."""
    row = Trajectory("t", "s", "I am sad.", "sad", (TrajectoryTurn("user", "I am sad.", ()),))
    write_rows(tmp_path / "whole.parquet", [row], Trajectory)
    table = pq.read_table(tmp_path / "whole.parquet")
    pq.write_table(table.drop_columns(["ended", "generated_tokens"]), tmp_path / "less.parquet")
    assert read_rows(tmp_path / "less.parquet", Trajectory) == [row]


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="check the path"):
        read_rows(tmp_path / "none.parquet", Rejection)
    with pytest.raises(DataError, match="not a Parquet file or a folder of them"):
        read_rows(tmp_path, Rejection)
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"no table")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_rows(path, Rejection)
    pq.write_table(pa.table({"dialogue_id": ["1"]}), path)
    with pytest.raises(DataError, match=r"lacks the columns \['reason'\]"):
        read_rows(path, Rejection)
    pq.write_table(pa.table({"dialogue_id": ["1"], "reason": [None]}), path)
    with pytest.raises(DataError, match="reason"):
        read_rows(path, Rejection)


def test_json_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_json(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="is not JSON"):
        read_json(tmp_path / "broken.json")


def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2, 3]}) == digest({"b": [2, 3], "a": 1})
    assert digest({"a": 1, "b": [2, 3]}) != digest({"a": 1, "b": [3, 2]})


@given(st.lists(st.integers()), st.integers(min_value=1, max_value=7))
def test_shards_are_consecutive_and_whole(items: list[int], size: int) -> None:
    parts = shards(items, size)
    assert [item for part in parts for item in part] == items
    assert all(len(part) == size for part in parts[:-1])
    assert all(0 < len(part) <= size for part in parts)
