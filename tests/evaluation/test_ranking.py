"""Scores of all models, lengths and styles: planted effects are found, other packages agree."""

from collections.abc import Sequence
from itertools import combinations

import evalica
import numpy as np
import pytest
from judged import simulated

from sage_core.evaluation.length_control import controlled_rate, length_control
from sage_core.evaluation.outcomes import by_pair
from sage_core.evaluation.ranking import Ranking, rank, unknown_models, verdict_table
from sage_core.evaluation.styles import text_styles
from sage_core.schema import Judgement

MODELS = ("m0", "m1", "m2", "m3")
SKILL = {"m0": 0.0, "m1": 0.5, "m2": 1.2, "m3": 0.7}


def ranked(rows: Sequence[Judgement]) -> Ranking:
    (found,) = rank(verdict_table(by_pair(rows)), MODELS)
    return found


def test_scores_are_those_of_evalica() -> None:
    """With the prior as data: each model ties once with a virtual one. Nothing is shown first more
    often, so the term for the position is left with nothing to explain."""
    rows = simulated(SKILL, pairs=combinations(MODELS, 2), situations=60, seed=1)
    # The same verdicts the other way around take away what position explains by chance.
    mirrored = [
        Judgement(f"{row.item_id}'", row.judge, row.model_a, row.model_b,
                  "ba" if row.order == "ab" else "ab", row.verdict, "")
        for row in rows
    ]  # fmt: skip
    verdicts = verdict_table(by_pair([*rows, *mirrored]))
    winner = {0.0: evalica.Winner.X, 0.5: evalica.Winner.Draw, 1.0: evalica.Winner.Y}
    theirs = np.log(
        evalica.bradley_terry(
            [*verdicts["a"], *MODELS],
            [*verdicts["b"], *["virtual"] * len(MODELS)],
            [*verdicts["preferred"].map(winner), *[evalica.Winner.Draw] * len(MODELS)],
            tolerance=1e-12,
            limit=10_000,
        ).scores
    )
    ours = ranked([*rows, *mirrored])
    assert ours.first.value == pytest.approx(0, abs=1e-9)
    for model in MODELS:
        assert ours.models[model].value == pytest.approx(theirs[model] - theirs["m0"], abs=1e-6)


def test_planted_skill_position_and_length_are_found() -> None:
    lengths = {model: 300.0 + 60 * number for number, model in enumerate(MODELS)}
    rows, styles = simulated(
        SKILL, pairs=combinations(MODELS, 2), situations=400, position=0.8, length=0.9,
        lengths=lengths, seed=2,
    )  # fmt: skip
    (found,) = rank(verdict_table(by_pair(rows)), MODELS, styles=styles)
    truth = {**{model: (found.models[model], SKILL[model]) for model in MODELS[1:]},
             "first": (found.first, 0.8), "length": (found.styles["characters"], 0.9)}  # fmt: skip
    for name, (score, planted) in truth.items():
        assert score.ci_low - 0.1 < planted < score.ci_high + 0.1, name
        assert score.ci_high - score.ci_low < 0.6, name
    # Without control for length, the longest model seems better than it is.
    plain = ranked(rows)
    assert plain.models["m3"].value > found.models["m3"].value + 0.2


def test_intervals_are_clustered_by_situation() -> None:
    """Each verdict ten times is no more evidence, if all ten are of one situation."""
    rows = simulated(SKILL, pairs=[("m0", "m1")], situations=80, seed=3)
    verdicts = verdict_table(by_pair(rows))
    once, often = (
        rank(each, MODELS)[0].models["m1"]
        for each in (verdicts, verdicts.loc[verdicts.index.repeat(10)])
    )
    width = once.ci_high - once.ci_low
    assert often.ci_high - often.ci_low == pytest.approx(width, rel=0.15)


def test_a_model_that_always_wins_has_a_finite_score() -> None:
    rows = [
        Judgement(str(item), "j", "m0", "m1", order, "model_b", "")
        for item in range(10)
        for order in ("ab", "ba")
    ]
    score = ranked(rows).models["m1"]
    # 20 wins, and a tie of both with a virtual model between them.
    assert 1 < score.ci_low < score.value < score.ci_high < 12


def test_models_that_never_met_are_ranked_through_others() -> None:
    skill = {"m0": 0.0, "m1": 0.6, "m2": 1.2}
    rows = simulated(skill, pairs=[("m0", "m1"), ("m1", "m2")], situations=300, seed=4)
    found = ranked(rows).models
    assert found["m2"].value == pytest.approx(1.2, abs=0.4)
    assert found["m2"].ci_high - found["m2"].ci_low > found["m1"].ci_high - found["m1"].ci_low


@pytest.mark.parametrize("number", [0, 1])
def test_none_and_one_item(number: int) -> None:
    rows = [Judgement("x", "j", "m0", "m1", "ab", "tie", "")] * number
    assert len(rank(verdict_table(by_pair(rows)), MODELS)) == number


def test_ties_only_are_a_result_and_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    """statsmodels warns of verdicts that are all met: the priors identify the scores."""
    rows = [
        Judgement(str(item), "j", *pair, order, "tie", "")
        for item in range(6)
        for pair in combinations(MODELS, 2)
        for order in ("ab", "ba")
    ]
    found = ranked(rows)
    for score in (*found.models.values(), found.first):
        assert score.value == pytest.approx(0, abs=1e-9)
    assert not recwarn.list


def test_verdicts_without_conversations_are_left_out_and_named() -> None:
    rows = simulated(SKILL, pairs=[("m0", "m1"), ("m1", "m9")], situations=3, seed=0)
    styles = {model: {"0": text_styles("Hi!"), "1": text_styles("?")} for model in MODELS}
    (found,) = rank(verdict_table(by_pair(rows)), MODELS, styles=styles)
    assert (found.verdicts, found.situations) == (4, 2)
    assert unknown_models(by_pair(rows), styles) == {"j": ["m9"]}


def test_marks_of_style() -> None:
    text = "# Well\n- one\n2. two **bold** `x`\nReally? Yes! Yes!"
    assert text_styles(text) == {
        "characters": len(text), "questions": 1, "exclamations": 2, "markup": 7,
    }  # fmt: skip


def length_biased(n: int) -> tuple[list[float], list[float]]:
    """Preferences for the second of two replies, and how much longer it is."""
    rng = np.random.default_rng(0)
    preferred = rng.choice([0, 0.5, 1], n, p=[0.3, 0.3, 0.4])
    longer = rng.normal(40, 100, n).round()
    return np.where(longer > 120, 1.0, preferred).tolist(), longer.tolist()


def test_the_length_controlled_rate_is_that_of_alpaca_eval() -> None:
    """0.6504997859845252 is what `fit_LogisticRegressionCV` of alpaca_eval 0.6.6 gives for these
    verdicts under its formula `length_controlled_minimal`, which has no difficulties."""
    preferred, longer = length_biased(300)
    assert np.mean(preferred) == pytest.approx(0.67, abs=0.03)
    assert controlled_rate(preferred, longer) == pytest.approx(0.6504997859845252, abs=1e-9)


def test_length_control_of_pairs() -> None:
    preferred, longer = length_biased(60)
    said = {0.0: "model_a", 0.5: "tie", 1.0: "model_b"}
    rows = [
        Judgement(str(item), "j", "m0", "m1", order, said[each], "")  # type: ignore[arg-type]
        for item, each in enumerate(preferred)
        for order in ("ab", "ba")
    ]
    styles = {
        "m0": {str(item): {"characters": 500.0} for item in range(60)},
        "m1": {str(item): {"characters": 500.0 + longer[item]} for item in range(60)},
    }
    (found,) = length_control(by_pair(rows), styles)
    assert (found.n, found.rate) == (60, pytest.approx(np.mean(preferred)))
    assert found.controlled is not None
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert found.ci_low < found.controlled < found.ci_high
    assert found.controlled < found.rate  # the longer one was preferred
    assert found.longer.value is not None
    assert found.longer.value > 0.5
    (few,) = length_control(by_pair(rows[:6]), styles)
    assert (few.n, few.controlled) == (3, None)
    assert length_control(by_pair(rows), {"m0": styles["m0"]}) == []
