"""When the rounds of refinement end: the pipeline's own loop over stages that make nothing."""

from collections.abc import Callable
from typing import Any

import pytest

from flows import pipeline as module
from sage_core.config import PipelineConfig
from sage_core.evaluation.winrate import PairSummary, improves
from sage_core.storage import ArtifactRef


class Stages:
    """Every stage gives a reference named after it and its label; keeps what it was asked."""

    def __init__(self, better: Callable[[str], bool], collapsed: str) -> None:
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self._better, self._collapsed = better, collapsed

    def __getattr__(self, name: str) -> Any:
        def stage(label: str = "", /, **inputs: Any) -> ArtifactRef:
            self.asked.append((name, label, inputs))
            return ArtifactRef(f"{name} {label}".strip(), "", 0)

        return stage

    def read_health(self, ref: ArtifactRef) -> dict[str, Any]:
        return {"figures": {}, "collapsed": ["x"] if ref.path.endswith(self._collapsed) else []}

    def improves(self, parts: list[ArtifactRef], samples: int, seed: int) -> bool:
        return self._better(parts[0].path)


class Anything:
    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **named: Anything()


def run(
    monkeypatch: pytest.MonkeyPatch,
    refine: dict[str, Any],
    better: Callable[[str], bool] = lambda pair: True,
    collapsed: str = "none",
) -> dict[str, Any]:
    stages = Stages(better, collapsed)
    monkeypatch.setattr(module, "stages", stages)
    monkeypatch.setattr(module, "build_corpus", lambda corpus: ArtifactRef("corpus", "", 0))
    monkeypatch.setattr(module, "count", lambda ref, name: 1)
    monkeypatch.setattr(module, "tables", Anything())
    monkeypatch.setattr(module, "get_run_logger", Anything)
    config = PipelineConfig.model_validate(
        {"refine": refine, "steering_report": {"enabled": False}}
    )
    result: dict[str, Any] = module._pipeline(config, Anything())  # type: ignore[arg-type]
    (dpo,) = [inputs for name, _, inputs in stages.asked if name == "dpo"]
    report = next(inputs for name, _, inputs in stages.asked if name == "report")
    return {
        "models": [*result["checkpoints"]],
        "dpo": dpo["parent"].path.split()[-1],
        "searched": [*report["searches"]],
        "parents": report["parents"],
        "rolled out": [
            label.split()[-1] for name, label, _ in stages.asked if name == "trajectories"
        ],
    }


def test_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(monkeypatch, {"rounds": 2}, better=lambda pair: False)
    assert found["models"] == ["raw", "m1", "m2", "m3", "dpo"]
    assert (found["dpo"], found["searched"]) == ("m3", ["m1", "m2"])
    assert found["parents"] == {"raw": "m0", "m1": "m0", "m2": "m1", "m3": "m2", "dpo": "m3"}
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


@pytest.mark.parametrize(
    ("intervals", "expected"),
    [
        ([(0.01, 0.3)], True),
        ([(0.0, 0.3)], False),
        ([(-0.1, 0.1)], False),
        ([(-0.3, -0.1)], False),
        ([(None, None)], False),
        ([(-0.1, 0.1), (0.1, 0.2)], True),
        ([], False),
    ],
)
def test_improves(intervals: list[tuple[float | None, float | None]], expected: bool) -> None:
    pairs = [
        PairSummary("j", "m1", "m2", 9, 0, 9, 0, 0, 1.0, 1.0, low, high) for low, high in intervals
    ]
    assert improves(pairs) is expected
