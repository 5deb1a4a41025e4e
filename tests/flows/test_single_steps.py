"""Single stages do on files what the pipeline does: here those that once did not."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scripted_engine import ScriptedEngine

from flows.commands import single_stages
from sage_core.config.pipeline import PipelineConfig
from sage_core.engines import loading
from sage_core.errors import ConfigError
from sage_core.schema import (
    AnnotatedDialogue,
    AnnotatedTurn,
    Candidate,
    Dialogue,
    Message,
    PreferencePair,
    TrainingDialogue,
    Trajectory,
    TrajectoryTurn,
)
from sage_core.steps import dpo, sft
from sage_core.steps.names import PREFERENCES
from sage_core.steps.selected import Preferences
from sage_core.storage import read_rows, write_json, write_rows
from sage_core.training.job import Job
from tasks import checkpoints, engines
from tasks.home import store
from tasks.making import make

STATES = (
    "{u_motivation: vent, u_emotion: sad, u_topic: [x]} "
    "{a_motivation: cheer, a_emotion: calm, a_topic: [y]}"
)


class Trainings:
    """In place of training: keeps what each was given."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.rows: list[Any] = []

    def train(
        self,
        folder: Path,
        job: Job,
        rows: Sequence[Any],
        settings: object,
        work: Path,
        on_step: object,
    ) -> None:
        self.jobs.append(job)
        self.rows = list(rows)
        (folder / "adapter_config.json").write_text("{}")


@pytest.fixture
def trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trainings:
    found = Trainings()
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(
        loading,
        "prepare_base",
        lambda folder, model: write_json(folder / "base.json", {"base": model.base}),
    )
    monkeypatch.setattr(sft, "train_sft", found.train)
    monkeypatch.setattr(dpo, "train_dpo", found.train)
    return found


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    folder = tmp_path / "m3"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    return folder


def candidates(number: int) -> tuple[Candidate, ...]:
    chosen = Candidate(f"{STATES} Nice {number}.", 1, True)
    return chosen, Candidate(f"{STATES} Oh.", 0, False)


def trajectories(path: Path, number: int) -> None:
    rows = [
        Trajectory(
            f"t{n}", f"s{n}", "I won!", "joyful",
            (
                TrajectoryTurn("user", "I won!", ()),
                TrajectoryTurn("assistant", f"{STATES} Nice {n}.", candidates(n)),
            ),
        )
        for n in range(number)
    ]  # fmt: skip
    write_rows(path, rows, Trajectory)


def test_train_dpo_takes_as_many_pairs_as_the_settings_say(
    tmp_path: Path, trainings: Trainings, parent: Path
) -> None:
    config = PipelineConfig.model_validate({"dpo": {"max_pairs": 12}, "seed": 3})
    found, pairs = tmp_path / "found.parquet", tmp_path / "pairs.parquet"
    trajectories(found, 40)
    single_stages.train_dpo(config, found, tmp_path / "first", parent)
    from_trajectories = trainings.rows
    step = Preferences(
        trajectories=(single_stages.as_given(found, "trajectories.parquet"),),
        profile=config.conversation.agent, rejected=config.dpo.rejected, max_pairs=12, seed=3,
    )  # fmt: skip
    there = read_rows(store().folder(make(step)) / PREFERENCES, PreferencePair)
    assert len(from_trajectories) == 12
    assert from_trajectories == there

    every = [PreferencePair((Message("user", "?"),), f"a{n}", f"b{n}", 0) for n in range(40)]
    write_rows(pairs, every, PreferencePair)
    single_stages.train_dpo(config, pairs, tmp_path / "second", parent)
    assert len(trainings.rows) == 12
    assert set(trainings.rows) < set(every)
    assert [job.name for job in trainings.jobs] == ["dpo", "dpo"]
    with pytest.raises(ConfigError, match=r"models there are: m0\. Choose"):
        checkpoints.find("dpo", config.model)  # that of a run is not hidden by it
    assert {job.parent for job in trainings.jobs} == {parent}
    assert [path.name for path in (tmp_path / "first").iterdir()] == ["adapter_config.json"]


def sac(path: Path, number: int) -> None:
    rows = [
        AnnotatedDialogue(
            f"d{n}",
            (
                AnnotatedTurn("user", f"Hi {n}.", "greeting", "calm", ("x",)),
                AnnotatedTurn("assistant", f"Hello {n}.", "greeting", "calm", ("x",)),
            ),
        )
        for n in range(number)
    ]
    write_rows(path, rows, AnnotatedDialogue)


def test_train_sft_takes_the_mixture_along(tmp_path: Path, trainings: Trainings) -> None:
    instructions = tmp_path / "tasks.jsonl"
    instructions.write_text(
        '{"messages": [{"role": "user", "content": "2 + 2?"}, '
        '{"role": "assistant", "content": "4"}]}\n' * 2
    )
    rows = tmp_path / "sac.parquet"
    sac(rows, 4)

    def trained(name: str, **mixture: Any) -> list[TrainingDialogue]:
        config = PipelineConfig.model_validate({"mixture": mixture})
        single_stages.train_sft(config, rows, tmp_path / name, None, states=True)
        assert trainings.jobs[-1].name == name
        return trainings.rows

    alone = trained("alone")
    mixed = trained("mixed", instructions={"input": instructions, "share": 1 / 3})
    assert len(alone) == 4
    assert [row.messages[-1].content for row in mixed].count("4") == 2
    assert {row for row in mixed if row.messages[-1].content != "4"} == set(alone)
    blended = trained("blended", blend=1.0)
    assert len(blended) == 2


def test_a_user_of_dialogues_alone_is_trained_on_too(tmp_path: Path, trainings: Trainings) -> None:
    said = (Message("user", "Hi."), Message("assistant", "Hello."))
    write_rows(tmp_path / "dialogues.parquet", [Dialogue("d", "t", "d", said)], Dialogue)
    config = PipelineConfig.model_validate({"conversation": {"train_user": True}})
    single_stages.train_sft(
        config, tmp_path / "dialogues.parquet", tmp_path / "raw", None, states=True
    )
    asked = [row.messages[0].content for row in trainings.rows]
    assert asked == [config.conversation.agent.ask, config.conversation.user.ask]
    assert not any("{" in message.content for row in trainings.rows for message in row.messages)


def test_annotate_takes_one_split_and_asks_once(
    tmp_path: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def say(request: Any, candidate: int) -> str:
        asked.append(request.request_id)
        return '{"motivation": "sharing", "emotion": "calm", "topics": ["x"]}'

    monkeypatch.setattr(engines, "open_engine", lambda *arguments: ScriptedEngine(say))
    said = (Message("user", "Hi."), Message("assistant", "Hello."))
    rows = [Dialogue(f"d{n}", "t", f"d{n}", said, "test" if n == 1 else "train") for n in range(3)]
    write_rows(tmp_path / "dialogues.parquet", rows, Dialogue)
    config = PipelineConfig.model_validate({"annotation": {"shard_size": 1}})
    for name in ("first", "again"):
        made = single_stages.annotate(config, tmp_path / "dialogues.parquet", tmp_path / name)
        found = read_rows(made, AnnotatedDialogue)
        assert [row.dialogue_id for row in found] == ["d0", "d2"]
        assert len(asked) == 4
    files = {path.name for path in (tmp_path / "first").iterdir()}
    assert files == {"sac.parquet", "annotation.json", "answers.json"}


def test_models_that_are_judged_need_two_names(tmp_path: Path, trainings: Trainings) -> None:
    path = tmp_path / "trajectories.parquet"
    trajectories(path, 1)
    with pytest.raises(ConfigError, match="--model-b"):
        single_stages.judge_run(PipelineConfig(), (path, path), ("a", "a"), tmp_path / "judged")
