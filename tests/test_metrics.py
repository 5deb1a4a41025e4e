"""Figures of rollouts: every expected number is derived by hand beside it."""

import math

import pytest

from sage_core.evaluation.metrics import Mean, Rate, model_metrics
from sage_core.schema import Trajectory, TrajectoryTurn


def test_a_rate_has_the_wilson_interval() -> None:
    """3 of 10: centre (0.3 + z²/20) / (1 + z²/10) with z = 1.959964:
    z² = 3.841459, centre = (0.3 + 0.192073) / 1.384146 = 0.355506,
    half = z / 1.384146 * sqrt(0.3 * 0.7 / 10 + z² / 400) = 1.416010 * sqrt(0.030604) = 0.247717.
    """
    rate = Rate.of(3, 10)
    assert (rate.hits, rate.n, rate.value) == (3, 10, 0.3)
    assert rate.ci_low == pytest.approx(0.355506 - 0.247717, abs=1e-5)
    assert rate.ci_high == pytest.approx(0.355506 + 0.247717, abs=1e-5)


def test_a_rate_at_its_ends_and_of_nothing() -> None:
    """0 of 5: the interval ends at z² / (5 + z²) = 3.841459 / 8.841459 = 0.434483."""
    none, every = Rate.of(0, 5), Rate.of(5, 5)
    assert none.ci_low == pytest.approx(0, abs=1e-12)
    assert none.ci_high == pytest.approx(0.434483, abs=1e-5)
    assert every.ci_low == pytest.approx(1 - 0.434483, abs=1e-5)
    assert Rate.of(0, 0) == Rate(0, 0, None, None, None)


def test_a_mean_has_the_t_interval() -> None:
    """2, 4, 6: mean 4, variance 4, standard error 2 / sqrt(3) = 1.154701, t(2) = 4.302653."""
    mean = Mean.of([2, 4, 6])
    assert (mean.n, mean.value) == (3, 4.0)
    assert mean.ci_low == pytest.approx(4 - 4.302653 * 2 / math.sqrt(3), abs=1e-5)
    assert mean.ci_high == pytest.approx(4 + 4.302653 * 2 / math.sqrt(3), abs=1e-5)


def test_a_mean_of_few_or_equal_values() -> None:
    assert Mean.of([]) == Mean(0, None, None, None)
    assert Mean.of([7]) == Mean(1, 7.0, None, None)
    assert Mean.of([7, 7]) == Mean(2, 7.0, 7.0, 7.0)


def states(user: str, motivation: str, emotion: str) -> str:
    return (
        f"{{u_motivation: null, u_emotion: {user}, u_topic: []}} "
        f"{{a_motivation: {motivation}, a_emotion: {emotion}, a_topic: [one, two]}} "
    )


def trajectory(emotion: str, *replies: str) -> Trajectory:
    turns = [TrajectoryTurn("user", "Is the user's text counted? Not a word of it?", ())]
    for reply in replies:
        turns += [TrajectoryTurn("assistant", reply, ()), TrajectoryTurn("user", "ok ok?", ())]
    return Trajectory("t", "s", "situation", emotion, tuple(turns))


TRAJECTORIES = [
    trajectory(
        "sad",
        states("Sad", "comfort", "calm") + "oh no, oh no",  # 4 words
        states("joyful", "humor", "calm") + "Oh no, why? ",  # 3 words, a question
    ),
    trajectory("angry", states("sad", "comfort", "null") + "why"),  # 1 word
    trajectory("angry"),  # the agent said nothing
]


def test_model_metrics_by_hand() -> None:
    """Pairs: (oh no,) (no, oh) (oh no) | (oh no,) (no, why?) -> 5, of which 4 differ."""
    metrics = model_metrics("m1", TRAJECTORIES, states=True)
    assert metrics.model == "m1"
    assert (metrics.reply_words.n, metrics.reply_words.value) == (3, pytest.approx(8 / 3))
    assert (metrics.questions.hits, metrics.questions.n) == (1, 3)
    assert metrics.distinct_2 == pytest.approx(4 / 5)
    # Of the first replies, "Sad" is right whatever its case and "sad" for "angry" is not; the
    # dialogue without a reply predicts nothing.
    assert (metrics.emotion_accuracy.hits, metrics.emotion_accuracy.n) == (1, 2)
    assert list(metrics.motivations.items()) == [("comfort", 2), ("humor", 1)]
    assert metrics.emotions == {"calm": 2}


def test_a_model_without_states_has_no_emotion_accuracy() -> None:
    metrics = model_metrics("raw", [trajectory("sad", "Sad indeed.")], states=False)
    assert metrics.emotion_accuracy == Rate(0, 0, None, None, None)
    assert metrics.reply_words.value == 2
    assert metrics.motivations == {}


def test_nothing_said_is_no_zero() -> None:
    metrics = model_metrics("m1", [], states=True)
    assert metrics.reply_words.value is None
    assert metrics.questions.value is None
    assert metrics.distinct_2 is None


def test_equally_frequent_values_are_in_alphabetical_order() -> None:
    replies = [states("null", name, "calm") + "x" for name in ("tease", "ask", "tease", "ask")]
    metrics = model_metrics("m1", [trajectory("sad", *replies)], states=True)
    assert list(metrics.motivations) == ["ask", "tease"]
