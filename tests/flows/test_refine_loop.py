"""When the rounds of refinement end: the pipeline's own loop over steps that make nothing."""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest

from flows import pipeline as module
from sage_core.config.pipeline import PipelineConfig
from sage_core.steps.base import Model, Step
from sage_core.steps.dpo import Dpo
from sage_core.steps.joined import Trajectories
from sage_core.steps.judging import JudgePair
from sage_core.steps.report import Report
from sage_core.storage import ArtifactRef
from tasks import caching


class Steps:
    """Every step gives a reference named after it and its label; keeps what was to be made."""

    def __init__(self) -> None:
        self.made: list[tuple[str, Any]] = []

    def make(self, step: Step, label: str = "") -> ArtifactRef:
        self.made.append((label, step))
        return ArtifactRef(f"{step.name} {label}".strip(), "", 0)

    def of(self, kind: type[Step]) -> list[tuple[str, Any]]:
        return [(label, step) for label, step in self.made if isinstance(step, kind)]


class Anything:
    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: Anything()


def run(
    monkeypatch: pytest.MonkeyPatch,
    refine: dict[str, Any],
    better: Callable[[str], bool] = lambda pair: True,
    collapsed: str = "none",
) -> dict[str, Any]:
    steps = Steps()

    def collapse(folder: Path) -> dict[str, Any]:
        return {"figures": {}, "collapsed": ["x"] if folder.name.endswith(collapsed) else []}

    def make_asking(asking: Sequence[Step], labels: Sequence[str], *more: Any, **named: Any) -> Any:
        return [
            steps.make(step, label) for step, label in zip_longest(asking, labels, fillvalue="")
        ]

    def improves(config: object, before: str, after: str, *more: object) -> bool:
        return better(f"{before}-{after}")

    monkeypatch.setattr(module, "make", steps.make)
    monkeypatch.setattr(caching, "make", steps.make)
    monkeypatch.setattr(module, "make_asking", make_asking)
    monkeypatch.setattr(module, "read_collapse", collapse)
    monkeypatch.setattr(module, "improves", improves)
    monkeypatch.setattr(module, "build_corpus", lambda corpus: ArtifactRef("corpus", "", 0))
    monkeypatch.setattr(module, "count", lambda ref, name: 1)
    monkeypatch.setattr(module, "tables", Anything())
    monkeypatch.setattr(module, "get_run_logger", Anything)
    monkeypatch.setattr(module, "source_hash", lambda path: "")
    config = PipelineConfig.model_validate(
        {
            "refine": refine,
            "steering_report": {"enabled": False},
            "evaluation": {"human": Path("people.json"), "judged_situations": 3},
        }
    )
    result: dict[str, Any] = module.run_method(config, Anything())  # type: ignore[arg-type]
    ((_, dpo),) = steps.of(Dpo)
    ((_, report),) = steps.of(Report)
    return {
        "models": [*result["checkpoints"]],
        "dpo": dpo.parent.name,
        "searched": [*report.searches],
        "judged": {step.situations for _, step in steps.of(JudgePair)},
        "calibrated": [ref.path for ref in report.calibrations],
        "parents": report.parents,
        "rolled out": [label.split()[-1] for label, _ in steps.of(Trajectories)],
    }


def test_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(monkeypatch, {"rounds": 2}, better=lambda pair: False)
    assert found["models"] == ["raw", "m1", "m2", "m3", "dpo"]
    assert (found["dpo"], found["searched"]) == ("m3", ["m1", "m2"])
    assert found["parents"] == {"raw": "m0", "m1": "m0", "m2": "m1", "m3": "m2", "dpo": "m3"}
    assert found["judged"] == {3}
    assert found["calibrated"] == ["calibrate-judge m0"]
    assert sorted(found["rolled out"]) == ["dpo", "m0", "m1", "m2", "m3", "raw"]  # each once


def test_saturation_ends_after_the_first_model_that_is_no_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refine = {"stop": "saturation", "max_rounds": 5}
    found = run(monkeypatch, refine, better=lambda pair: "m1-m2" in pair)
    assert found["models"] == ["raw", "m1", "m2", "m3", "dpo"]
    assert found["dpo"] == "m3"


def test_saturation_ends_at_the_most_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(monkeypatch, {"stop": "saturation", "max_rounds": 3, "rounds": 1})
    assert found["models"] == ["raw", "m1", "m2", "m3", "m4", "dpo"]
    assert found["dpo"] == "m4"


@pytest.mark.parametrize(
    ("on_collapse", "models", "parent"),
    [
        ("warn", ["raw", "m1", "m2", "m3", "dpo"], "m3"),
        ("stop", ["raw", "m1", "m2", "dpo"], "m1"),
    ],
)
def test_a_collapsed_model_warns_or_stops(
    monkeypatch: pytest.MonkeyPatch, on_collapse: str, models: list[str], parent: str
) -> None:
    refine = {"rounds": 2, "gates": {"on_collapse": on_collapse}}
    found = run(monkeypatch, refine, collapsed="m2")
    assert (found["models"], found["dpo"]) == (models, parent)
    assert found["parents"]["dpo"] == parent


def test_pairs_of_retraining_and_of_commands_are_judged_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their situations and files are their own; the demo's setting is not for them."""
    asked: list[JudgePair] = []

    def make_asking(steps: Sequence[JudgePair], *more: Any, **named: Any) -> list[ArtifactRef]:
        asked.extend(steps)
        return []

    monkeypatch.setattr(module, "make_asking", make_asking)
    config = PipelineConfig.model_validate({"evaluation": {"judged_situations": 3}})
    rollouts = {name: ArtifactRef(name, "", 0) for name in ("champion", "challenger")}
    m0 = Model("m0", ArtifactRef("base", "", 0))
    module.judge_pairs(config, [("champion", "challenger")], rollouts, m0)
    assert [step.situations for step in asked] == [0]
