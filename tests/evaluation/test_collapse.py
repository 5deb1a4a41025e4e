"""The signs of collapse, by hand, and the gates they are held against."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripted_engine import ScriptedEngine

from sage_core.config.conversation import ConversationConfig, SelfPlayConfig
from sage_core.config.model import ModelConfig
from sage_core.config.refine import GatesConfig
from sage_core.engines.base import Engine, Request
from sage_core.evaluation.collapse import CollapseMetrics, collapse_metrics, collapsed
from sage_core.evaluation.metrics import Mean, Rate, model_metrics
from sage_core.evaluation.quality import Measurements
from sage_core.schema import Trajectory, TrajectoryTurn
from sage_core.search.dialogue import Speaker


def chain(motivation: str, utterance: str) -> str:
    return (
        "{u_motivation: vent, u_emotion: sad, u_topic: [x]} "
        f"{{a_motivation: {motivation}, a_emotion: calm, a_topic: [y]}} {utterance}"
    )


def trajectory(name: str, *replies: str, ended: str = "turns") -> Trajectory:
    turns = [TrajectoryTurn("user", "Hello.", ())]
    for reply in replies:
        turns += [TrajectoryTurn("assistant", reply, ()), TrajectoryTurn("user", "Hm.", ())]
    return Trajectory(name, name, "Hello.", "sad", tuple(turns[: 2 * len(replies)]), ended)


TRAJECTORIES = [
    trajectory("a", chain("cheer", "good day"), chain("tease", "good day to you")),
    trajectory("b", chain("cheer", "why is that?"), "{u_motivation: broken", ended="turns"),
    trajectory("c", chain("ask", "so"), ended="states_never_closed"),
]


def speaker(name: str, engine: Engine) -> Speaker:
    return Speaker(name, engine, True, ConversationConfig().agent)


def engine(per_word: float) -> tuple[ScriptedEngine, list[Request]]:
    """Gives each word of an option the same log-probability."""
    seen: list[Request] = []

    def score(request: Request, option: str) -> float:
        seen.append(request)
        assert option.startswith(" ")
        return per_word * len(option.split())

    return ScriptedEngine(lambda request, candidate: "", score), seen


def test_figures_by_hand() -> None:
    """Motivations: cheer, cheer, tease, ask: 1.5 bits. Five turns were written and one never got
    past its states, as did another: 2 of 6. Each word is e^1.5 times as likely as under m0."""
    own, seen = engine(-1.0)
    base, asked = engine(-2.5)
    found = collapse_metrics(
        TRAJECTORIES,
        speaker("m2", own),
        base,
        SelfPlayConfig(),
        3,
        7,
    )
    assert found.action_entropy == pytest.approx(1.5)
    assert found.malformed == Rate.of(2, 6)
    assert found.kl_to_m0.n == 3
    assert found.kl_to_m0.value == pytest.approx(1.5)
    assert [r.request_id for r in seen] == [r.request_id for r in asked]
    assert all(request.prefix.startswith("{u_") or not request.prefix for request in seen)
    again = collapse_metrics(
        TRAJECTORIES,
        speaker("m2", own),
        base,
        SelfPlayConfig(),
        3,
        7,
    )
    assert again == found
    assert found.figures()["kl_to_m0"] == pytest.approx(1.5)


def test_no_replies_no_kl() -> None:
    own, seen = engine(-1.0)
    found = collapse_metrics(
        TRAJECTORIES,
        speaker("m2", own),
        own,
        SelfPlayConfig(),
        0,
        7,
    )
    assert found.kl_to_m0.n == 0
    assert "kl_to_m0" not in found.figures()
    assert seen == []
    empty = collapse_metrics([], speaker("m2", own), own, SelfPlayConfig(), 9, 7)
    assert empty.figures() == {}
    assert collapsed(empty, GatesConfig()) == []


WELL = CollapseMetrics(
    "m2", 3.0, 0.6, Mean.of([20.0]), Rate.of(3, 10), Rate.of(0, 10), Mean.of([0.4])
)


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, []),
        ({"action_entropy": 0.1}, ["action_entropy is 0.1, under 0.5"]),
        ({"action_entropy": 0.0}, ["action_entropy is 0, under 0.5"]),
        ({"distinct_2": 0.01}, ["distinct_2 is 0.01, under 0.05"]),
        ({"reply_words": Mean.of([1.0])}, ["reply_words is 1, under 2"]),
        ({"reply_words": Mean.of([151.0])}, ["reply_words is 151, over 150"]),
        ({"questions": Rate.of(10, 10)}, ["question_rate is 1, over 0.98"]),
        ({"malformed": Rate.of(3, 10)}, ["malformed is 0.3, over 0.2"]),
        ({"kl_to_m0": Mean.of([99.0])}, []),  # off by default
    ],
)
def test_gates(change: dict[str, Any], failed: list[str]) -> None:
    assert collapsed(replace(WELL, **change), GatesConfig()) == failed


def test_gates_are_switched_on_and_off_one_by_one() -> None:
    bad = replace(WELL, kl_to_m0=Mean.of([99.0]), action_entropy=0.0)
    gates = GatesConfig(max_kl_to_m0=5.0, min_action_entropy=0)
    assert collapsed(bad, gates) == ["kl_to_m0 is 99, over 5"]


def test_a_model_is_at_no_distance_from_itself(tiny_base: Path) -> None:
    from sage_core.engines.in_process import TransformersEngine

    config = ModelConfig(base="tiny", dtype="float32", device="cpu", max_context=1024)
    m0 = TransformersEngine(tiny_base, None, config)
    found = collapse_metrics(
        TRAJECTORIES[:1],
        speaker("m0", m0),
        m0,
        SelfPlayConfig(),
        2,
        0,
    )
    assert found.kl_to_m0.n == 2
    assert math.isclose(found.kl_to_m0.value or 0.0, 0.0, abs_tol=1e-6)


def test_what_is_measured_already_is_in_the_figures_and_the_gates() -> None:
    """Two of four replies cut, one of five utterances with braces, one of two situations found."""
    values = {
        "cut_share": {"a": [1.0, 0.0], "b": [1.0, 0.0]},
        "stray_braces": {"a": [1.0, 0.0, 0.0], "b": [0.0, 0.0]},
        "situation_recovery": {"a": [1.0], "b": [0.0]},
    }
    measured = Measurements("m2", "TF-IDF", 2, {}, values)
    own, _ = engine(-1.0)
    found = collapse_metrics(
        TRAJECTORIES, speaker("m2", own), own, SelfPlayConfig(), 0, 7, measured=measured
    )
    assert found.figures()["cut_share"] == 0.5
    assert found.figures()["stray_braces"] == 0.2
    assert found.figures()["situation_recovery"] == 0.5
    strict = GatesConfig(max_cut_share=0.4, max_malformed=0, min_situation_recovery=0.6)
    assert collapsed(found, strict) == [
        "cut_share is 0.5, over 0.4",
        "stray_braces is 0.2, over 0.1",
        "situation_recovery is 0.5, under 0.6",
    ]
    off = GatesConfig(max_cut_share=0, max_stray_braces=0, max_malformed=0)
    assert collapsed(found, off) == []


def test_values_of_states_differ_by_more_than_case() -> None:
    """'Cheer' and 'cheer' are one action: no entropy, and one count."""
    own, _ = engine(-1.0)
    mixed = [trajectory("a", chain("Cheer", "one"), chain("cheer", "two"), chain("CHEER", "three"))]
    found = collapse_metrics(mixed, speaker("m2", own), own, SelfPlayConfig(), 0, 7)
    assert found.action_entropy == 0
    assert model_metrics("m2", mixed, states=True).motivations == {"cheer": 3}
