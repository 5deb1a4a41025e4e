"""From rollouts to what is measured without a judge, by the stages: artefacts, gates, tables."""

import shutil
from pathlib import Path

import pytest
from rich.console import Console

from flows.commands.tables import quality_table
from sage_core.config.conversation import ConversationConfig, SelfPlayConfig
from sage_core.config.engine import TransformersConfig
from sage_core.config.evaluation import QualityConfig
from sage_core.config.model import ModelConfig
from sage_core.config.refine import GatesConfig
from sage_core.evaluation import embedding
from sage_core.evaluation.quality import key_figures
from sage_core.schema import Trajectory, TrajectoryTurn
from sage_core.steps.base import Model
from sage_core.steps.collapse import CollapseMetrics
from sage_core.steps.measurements import Measurements, Quality
from sage_core.steps.names import QUALITY, TRAJECTORIES
from sage_core.steps.reading import read_collapse, read_measurements, read_quality
from sage_core.steps.speaking import Speaking
from sage_core.storage import ArtifactRef, read_json, write_rows
from tasks.home import store
from tasks.making import make

MODEL = ModelConfig(base="tiny", dtype="float32", device="cpu", max_context=1024)
TEXTS = ("My cat ran away.", "I waited an hour for the bus.", "I got the job!")


def rollouts(name: str, reply: str, *, states: bool, cut: bool) -> ArtifactRef:
    chain = (
        "{u_motivation: vent, u_emotion: sad, u_topic: [x]} "
        "{a_motivation: cheer, a_emotion: calm, a_topic: [y]} "
    )
    rows = [
        Trajectory(
            f"t{number}",
            f"s{number}",
            text,
            "sad",
            (
                TrajectoryTurn("user", text, ()),
                TrajectoryTurn(
                    "assistant", f"{chain if states else ''}{reply} {text}", (), cut=cut
                ),
                TrajectoryTurn("user", "Yes {so it is}.", ()),
            ),
        )
        for number, text in enumerate(TEXTS)
    ]
    return store().build(
        f"rollouts/{name}",
        lambda folder: write_rows(folder / TRAJECTORIES, rows, Trajectory),
        {},
    )


def test_rollouts_are_measured_compared_and_gated(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """m1's replies are whole and m2's are cut; the simulated person speaks in braces to both, which
    is half of all utterances."""
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    monkeypatch.setattr(embedding, "PACKAGE", "no_such_package")
    base = store().build(
        "base-model/0", lambda folder: shutil.copytree(tiny_base, folder, dirs_exist_ok=True), {}
    )
    spoken = {
        "m0": rollouts("m0", "Well.", states=False, cut=True),
        "m1": rollouts("m1", "Oh.", states=True, cut=False),
        "m2": rollouts("m2", "Hm.", states=True, cut=True),
    }
    measured = {
        name: make(
            Measurements(
                of=name, m0=Model("m0", base), rollouts=ref, settings=QualityConfig(),
                engine=TransformersConfig(), model=MODEL, scorer=embedding.scorer_name(), seed=0,
            ),
            name,
        )
        for name, ref in spoken.items()
    }  # fmt: skip
    assert "emotion_accuracy" not in read_measurements(store().folder(measured["m0"])).values
    ref = make(Quality(measured=tuple(measured.values()), bootstrap_samples=200, seed=0))
    found = read_quality(store().folder(ref))
    assert (found.scorer, found.compared) == ("TF-IDF", 3)
    by_model = {model.model: key_figures(model) for model in found.models}
    assert [by_model[name]["cut_share"] for name in spoken] == [1, 0, 1]
    assert by_model["m2"]["cut_share.vs_m1.ci_low"] == 1
    assert by_model["m2"]["situation_recovery_embedding"] == 1
    assert by_model["m1"]["stray_braces"] == 0.5
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    console.print(quality_table(read_json(store().folder(ref) / QUALITY)))
    text = console.export_text()
    assert "Which of 3 situations a first reply answers (by chance 33%)" in text
    assert "100%" in text

    collapse = make(
        CollapseMetrics(
            agent=Model("m0", base), rollouts=spoken["m0"], measured=measured["m0"],
            settings=GatesConfig(kl_replies=0, min_action_entropy=0, max_malformed=0),
            speaking=Speaking(
                selfplay=SelfPlayConfig(), profile=ConversationConfig().agent, model=MODEL
            ),
            seed=0,
        )
    )  # fmt: skip
    assert read_collapse(store().folder(collapse))["collapsed"] == [
        "cut_share is 1, over 0.5",
        "stray_braces is 0.5, over 0.1",
    ]
