"""Which part of a corpus the stages take: nothing is held out that nobody reads, and what is held
out is not taken along."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows import cli
from flows.commands import single_stages
from sage_core.config.loading import PRESETS, load_config
from sage_core.corpus.records import DIALOGUES
from sage_core.errors import DataError
from sage_core.schema import (
    AnnotatedDialogue,
    AnnotatedTurn,
    Dialogue,
    Message,
    TrainingDialogue,
    with_roles,
)
from sage_core.steps.given import of_split
from sage_core.steps.names import TRAINING
from sage_core.storage import read_rows, write_rows
from tasks.home import store

PARTS = ("train", "test", "train", "validation", "train")


@pytest.fixture
def dialogues(tmp_path: Path) -> Path:
    rows = [
        Dialogue(f"d{number}", "test", f"d{number}", with_roles(["Hello.", "Hi."]), part)
        for number, part in enumerate(PARTS)
    ]
    path = tmp_path / "dialogues.parquet"
    write_rows(path, rows, Dialogue)
    return path


@pytest.mark.parametrize("preset", PRESETS)
def test_a_run_holds_nothing_out(preset: str) -> None:
    more = ["mixture.corpora=[{reader: sharegpt, input: x.json}]"]
    config = load_config(preset, more)
    for corpus in (config.corpus, *config.mixture.corpora):
        assert corpus.validation_share == corpus.test_share == 0


def test_a_corpus_that_is_built_for_itself_has_three_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        f'{{"messages": [{{"role": "user", "content": "Hello {number}?"}}, '
        f'{{"role": "assistant", "content": "Hi {number}."}}]}}\n'
        for number in range(300)
    ]
    source = tmp_path / "said.jsonl"
    source.write_text("".join(lines))
    build = ["corpus", "build", "--reader", "messages", "--input", str(source), "--set",
             "corpus.rules=[question]"]  # fmt: skip

    def parts(*more: str) -> set[str]:
        output = tmp_path / f"built{len(more)}"
        done = CliRunner().invoke(cli.app, [*build, "--output", str(output), *more])
        assert done.exit_code == 0, done.output
        return {row.split for row in read_rows(output / "dialogues.parquet", Dialogue)}

    assert parts() == {"train", "validation", "test"}
    none = ("--set", "corpus.test_share=0", "--set", "corpus.validation_share=0")
    assert parts(*none) == {"train"}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([], ["d0", "d2", "d4"]),
        (["--split", "test"], ["d1"]),
        (["--split", "all"], ["d0", "d1", "d2", "d3", "d4"]),
    ],
)
def test_annotate_and_train_take_the_training_part_unless_asked(
    dialogues: Path,
    tmp_path: Path,
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: list[str],
    expected: list[str],
) -> None:
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    sac = tmp_path / "sac"
    done = CliRunner().invoke(
        cli.app,
        ["annotate", "--input", str(dialogues), "--output", str(sac), "--preset", "tiny", "--set",
         f"model.base={tiny_base}", "--set", "model.max_context=2048", *asked],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = read_rows(sac / "sac.parquet", AnnotatedDialogue)
    assert [row.dialogue_id for row in rows] == expected


@pytest.mark.parametrize(("split", "expected"), [("train", 3), ("all", 5)])
def test_training_on_a_table_with_splits_takes_one(
    dialogues: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str, expected: int
) -> None:
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    ref = single_stages.text_for(load_config("tiny"), dialogues, split, states=True)
    assert len(read_rows(store().folder(ref) / TRAINING, TrainingDialogue)) == expected


def test_a_split_that_is_not_there_is_named(dialogues: Path, tmp_path: Path) -> None:
    write_rows(dialogues, [Dialogue("d", "t", "d", with_roles(["Hi.", "Hello."]))], Dialogue)
    rows = read_rows(dialogues, Dialogue)
    with pytest.raises(DataError, match="no dialogue in the split 'test'; --split train, or all"):
        of_split(rows, dialogues, "test")
    # A table as published has no such column: all of it.
    write_rows(tmp_path / "sac.parquet", [AnnotatedDialogue("d", ())], AnnotatedDialogue)
    published = pq.read_table(tmp_path / "sac.parquet").drop_columns("split")
    pq.write_table(published, tmp_path / "sac.parquet")
    found = read_rows(tmp_path / "sac.parquet", AnnotatedDialogue)
    assert of_split(found, tmp_path / "sac.parquet", "test") == found


def test_training_on_states_takes_the_training_part_of_what_was_annotated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sage annotate --split all`, then `sage train sft`."""
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    turns = tuple(AnnotatedTurn(role, "Hi.", None, "sad", ()) for role in ("user", "assistant"))
    rows = [AnnotatedDialogue(f"d{n}", turns, part) for n, part in enumerate(PARTS)]  # type: ignore[arg-type]
    write_rows(tmp_path / "sac.parquet", rows, AnnotatedDialogue)

    def trained(split: str) -> int:
        config = load_config("tiny")
        ref = single_stages.text_for(config, tmp_path / "sac.parquet", split, states=True)
        return len(read_rows(store().folder(ref) / TRAINING, TrainingDialogue))

    assert (trained("train"), trained("test"), trained("all")) == (3, 1, 5)


@pytest.mark.parametrize("role", ["system", "tool"])
def test_a_given_table_has_the_turns_that_readers_give(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """System messages are left out, one speaker's turns joined, repeated names made unique."""
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    said = [(role, "Be kind."), ("assistant", "Hello!"), ("user", "Hi."), ("user", "You?")]
    rows = [Dialogue("d", "test", "d", tuple(Message(*each) for each in said))] * 2
    path = tmp_path / "dialogues.parquet"
    write_rows(path, rows, Dialogue)
    if role == "tool":
        with pytest.raises(DataError, match=r"dialogues\.parquet', dialogue 'd'.* 'tool'.*system"):
            single_stages.as_given(path, DIALOGUES)
        return
    ref = single_stages.as_given(path, DIALOGUES)
    first, second = read_rows(store().folder(ref) / DIALOGUES, Dialogue)
    assert (first.dialogue_id, second.dialogue_id) == ("d", "d#2")
    assert first.messages == (Message("assistant", "Hello!"), Message("user", "Hi.\nYou?"))
