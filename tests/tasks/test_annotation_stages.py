"""The joining stage of annotation, on shards as both methods leave them."""

from pathlib import Path
from typing import Any

import pytest

from sage_core.answers.tally import Tally
from sage_core.config.annotation import AnnotationConfig
from sage_core.schema import AnnotatedDialogue, AnnotatedTurn, ScoredDialogue, ScoredTurn
from sage_core.steps.annotated import AnnotatedDialogues
from sage_core.steps.names import ANNOTATION, ANSWERS, SAC, SCORES, SITUATION_SCORES
from sage_core.storage import ArtifactRef, read_json, read_rows, write_json, write_rows
from tasks.home import store
from tasks.making import make

SCORED = AnnotationConfig(
    method="score",
    topics="extracted",
    motivations=("sharing", "question"),
    emotions=("sad", "joyful"),
)
UTTERANCES = ("I love my garden!", "I hate the cold.", "I love the lake!")
LIKELY = ((-2.0, -3.0), (-1.0, -4.0), (-2.0, -3.0))  # sad, joyful; their means: -5/3, -10/3


def shard_of(number: int, table: str, rows: list[Any]) -> ArtifactRef:
    def write(folder: Path) -> None:
        write_rows(folder / table, rows, type(rows[0]))
        write_json(folder / ANSWERS, Tally().as_dict())

    return store().build(f"shard/{number}", write, {})


def scored_shard(number: int) -> ArtifactRef:
    turn = ScoredTurn("user", UTTERANCES[number], (0.0, float(number)), LIKELY[number])
    return shard_of(number, SCORES, [ScoredDialogue(f"d{number}", (turn,))])


def joined(
    parts: list[ArtifactRef], settings: AnnotationConfig, compared: ArtifactRef | None = None
) -> tuple[list[AnnotatedDialogue], Any]:
    ref = make(AnnotatedDialogues(parts=tuple(parts), situations=compared, settings=settings))
    folder = store().folder(ref)
    return read_rows(folder / SAC, AnnotatedDialogue), read_json(folder / ANNOTATION)


def test_scored_shards_are_calibrated_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    parts = [scored_shard(number) for number in range(3)]
    rows, figures = joined(parts, SCORED)
    turns = [turn for row in rows for turn in row.turns]
    assert [turn.utterance for turn in turns] == list(UTTERANCES)
    assert [turn.emotion for turn in turns] == ["joyful", "sad", "joyful"]
    assert [turn.motivation for turn in turns] == ["sharing", None, "question"]
    assert [turn.topics for turn in turns] == [("garden",), ("cold",), ("lake",)]
    agreement = figures["sentiment_agreement"]
    assert (agreement["hits"], agreement["n"]) == (3, 3)
    assert figures["empty"] == {"motivation": 1, "emotion": 0, "topics": 0, "all": 0}

    compared = store().build(
        "situations/0", lambda folder: write_json(folder / SITUATION_SCORES, [[-0.5, -9.0]]),
        {},
    )  # fmt: skip
    rows, figures = joined(parts, SCORED, compared)
    assert [turn.emotion for row in rows for turn in row.turns] == ["joyful"] * 3
    assert figures["sentiment_agreement"]["hits"] == 2


def test_written_shards_are_joined_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    written = [
        AnnotatedDialogue(f"d{n}", (AnnotatedTurn("user", text, None, "joyful", ("jazz",)),))
        for n, text in enumerate(UTTERANCES)
    ]

    parts = [shard_of(number, SAC, [written[number]]) for number in range(3)]
    rows, figures = joined(parts, AnnotationConfig())
    assert rows == written
    assert (figures["sentiment_agreement"]["hits"], figures["sentiment_agreement"]["n"]) == (2, 3)
    assert (figures["topics_said"]["hits"], figures["topics_said"]["n"]) == (0, 3)


def test_dialogues_that_are_left_out_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))

    def write(folder: Path) -> None:
        write_rows(folder / SCORES, [ScoredDialogue("long", ())], ScoredDialogue)
        write_json(folder / ANSWERS, Tally().as_dict())

    empty = store().build("shard/long", write, {})
    rows, figures = joined([scored_shard(0), empty], SCORED)
    assert [row.dialogue_id for row in rows] == ["d0"]
    assert figures["left_out"] == 1
