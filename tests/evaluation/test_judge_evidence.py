"""Judges against themselves, each other, families and soft verdicts; pairs of a tournament."""

from dataclasses import asdict, replace
from itertools import combinations

import pytest
from judged import simulated

from sage_core.config.evaluation import EvaluationConfig, JudgeConfig
from sage_core.config.pipeline import PipelineConfig
from sage_core.evaluation.agreement import (
    between_judges,
    family_gaps,
    kappa,
    krippendorff,
    position_consistency,
)
from sage_core.evaluation.families import family_of_name, judge_families, selector_family
from sage_core.evaluation.judge_evidence import judge_evidence, judged_figures, read_evidence
from sage_core.evaluation.outcomes import by_pair, turned
from sage_core.evaluation.soft import soft_summaries
from sage_core.evaluation.tournament import design, designed, judged_pairs
from sage_core.evaluation.winrate import summarise
from sage_core.schema import Judgement, Verdict
from sage_core.storage import canonical_json

MODELS = ("m0", "raw", "m1", "m2", "m3", "dpo")


def said(judge: str, *verdicts: Verdict, pair: tuple[str, str] = ("m0", "m1")) -> list[Judgement]:
    """Items on which both orders of a judge say the same."""
    return [
        Judgement(str(item), judge, *pair, order, verdict, "")
        for item, verdict in enumerate(verdicts)
        for order in ("ab", "ba")
    ]


def test_kappa_by_hand() -> None:
    """3 of 4 the same; marginals (2, 2) and (3, 1) of 4: by chance 0.5, so (0.75 - 0.5) / 0.5."""
    found = kappa(["a", "a", "b", "b"], ["a", "a", "b", "a"])
    assert (found.n, found.value) == (4, pytest.approx(0.5))
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert found.ci_low < 0.5 < found.ci_high
    assert kappa(["a", "a"], ["a", "a"]).value is None  # chance would agree fully too
    assert kappa([], []).value is None
    full = kappa(["a", "b"], ["a", "b"])
    assert (full.value, full.ci_low) == (1.0, None)  # no variance was seen


def test_judges_are_compared_on_items_that_both_judged_however_they_name_the_pair() -> None:
    first = said("j", "model_a", "model_b", "tie", "model_a")
    second = [turned(row) for row in said("k", "model_a", "model_b", "model_b", "unparsed")]
    (found,) = between_judges(by_pair([*first, *second]))
    assert (found.judge_a, found.judge_b) == ("j", "k")
    assert (found.same.hits, found.same.n) == (2, 3)


def test_krippendorffs_alpha_by_hand() -> None:
    """Two judges, three items: a a, b b, a b. Observed disagreement 2/6; by chance 2 * 3 * 3 / (6 *
    5) = 0.6, so alpha = 1 - (1/3) / 0.6 = 4/9. An item of one judge alone does not count."""
    rows = [
        *said("j", "model_a", "model_b", "model_a", "tie"),
        *said("k", "model_a", "model_b", "model_b"),
    ]
    found = krippendorff(by_pair(rows))
    assert (found.n, found.value) == (3, pytest.approx(4 / 9))
    assert found.ci_low is not None
    assert found.ci_high is not None
    assert found.ci_low <= 4 / 9 <= found.ci_high


def test_position_consistency() -> None:
    rows = [
        *said("j", "model_a", "tie", "unparsed"),
        Judgement("x", "j", "m0", "m1", "ab", "model_a", ""),
        Judgement("x", "j", "m0", "m1", "ba", "model_b", ""),
        Judgement("y", "j", "m0", "m1", "ba", "model_b", ""),
    ]
    found = position_consistency(by_pair(rows))["j"]
    assert (found.hits, found.n) == (2, 3)


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-4o-mini", "gpt"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral"),
        ("/models/Qwen2.5-7B/", "qwen"),
        ("smollm2-135m-instruct", "smollm"),
        ("7", "7"),
    ],
)
def test_families(model: str, family: str) -> None:
    assert family_of_name(model) == family


def test_a_judge_of_the_selectors_family_is_known() -> None:
    gpt = {"kind": "openai", "model": "gpt-4o"}
    judges = [{"name": "g", "engine": gpt}, {"name": "q", "engine": gpt, "family": "qwen"},
              {"name": "base"}]  # fmt: skip
    config = PipelineConfig.model_validate(
        {"evaluation": {"judges": judges}, "search": {"selector": {"engine": gpt}}}
    )
    families = judge_families(config)
    assert families == {"g": "gpt", "q": "qwen", "base": "smollm"}
    assert selector_family(config) == "gpt"
    chance = {"search": {"selector": {"random": True}}}
    assert selector_family(PipelineConfig.model_validate(chance)) == ""
    evidence = judge_evidence(said("g", "tie"), (), {}, families=families, selector="gpt")
    assert [evidence.own_family(judge) for judge in ("g", "q", "base")] == [True, False, False]


def test_the_gap_between_families_by_pair() -> None:
    rows = [
        *said("g", "model_b", "model_b", "model_b"),
        *said("q", "model_a", "model_b", "tie"),
        *said("base", "model_a", "tie", "tie"),
        *said("g", "model_a", pair=("m1", "m2")),
    ]
    families = {"g": "gpt", "q": "qwen", "base": "smollm"}
    (found,) = family_gaps(by_pair(rows), families, "gpt")  # m1-m2 has one kind of judge only
    assert (found.model_a, found.model_b, found.gap.n) == ("m0", "m1", 3)
    assert found.own.value == 1
    assert found.other.value == pytest.approx((-1 + 0.5 + 0) / 3)
    assert found.gap.value == pytest.approx(1 + 0.5 / 3)
    assert family_gaps(by_pair(rows), families, "llama") == []


def test_a_soft_verdict_takes_position_bias_off() -> None:
    """Log-odds of 0.2 for m1, and 3 for what is shown first: the paper's rule sees ties only."""
    rows = [
        Judgement(
            str(item), "j", "m0", "m1", order, verdict, "", log_odds=0.2 + shift + 0.01 * item
        )
        for item in range(5)
        for order, verdict, shift in (("ab", "model_a", -3.0), ("ba", "model_b", 3.0))
    ]  # type: ignore[arg-type]
    (found,) = soft_summaries(by_pair(rows))
    assert summarise(rows)[0].ties == 5
    assert (found.n, found.log_odds.value) == (5, pytest.approx(0.22))
    assert found.position.value == pytest.approx(3.0)
    assert (found.wins_b.hits, found.wins_b.n) == (5, 5)
    assert found.p_value is not None
    assert found.p_value < 0.001
    assert found.fewer is None  # the paper's rule shows no effect at all
    assert soft_summaries(by_pair([replace(row, log_odds=None) for row in rows])) == []


def test_what_a_soft_verdict_buys_in_power() -> None:
    """Verdicts drawn from the odds lose what the odds say: more situations are needed."""
    rows = simulated({"m0": 0.0, "m1": 0.5}, pairs=[("m0", "m1")], situations=200, seed=0)
    noisy = [replace(row, log_odds=row.log_odds + int(row.item_id) % 7 / 4) for row in rows]  # type: ignore[operator]
    (found,) = soft_summaries(by_pair(noisy))
    assert found.fewer is not None
    assert 0 < found.fewer < 0.5


def test_everything_together_survives_json() -> None:
    rows = [
        row
        for number, judge in enumerate(("j", "k"))
        for row in simulated(
            {"m0": 0.0, "m1": 0.5}, pairs=[("m0", "m1")], situations=12, seed=number
        )
        for row in [replace(row, judge=judge)]
    ]
    evidence = judge_evidence(rows, summarise(rows), {}, families={"j": "gpt", "k": "qwen"})
    assert evidence.alpha is not None
    assert read_evidence(asdict(evidence)) == evidence
    assert canonical_json(asdict(evidence))
    assert judged_figures(evidence)["m1"].keys() == {"bradley_terry.j", "bradley_terry.k"}


def test_no_judgements() -> None:
    evidence = judge_evidence([], summarise([]), {})
    assert (evidence.rankings, evidence.consistency, evidence.judges) == ((), {}, [])


def test_pairs_of_a_tournament() -> None:
    def asked(**settings: object) -> list[tuple[str, str]]:
        return judged_pairs(EvaluationConfig.model_validate(settings), MODELS, 100)

    assert len(asked()) == 6
    assert asked(pairs="all") == list(combinations(MODELS, 2))
    # Alone, n items give 2 * 1.96 / sqrt(100) = 0.392, and two models through m0 sqrt(2) of that.
    assert asked(pairs="design", interval_width=0.56) == [("m0", each) for each in MODELS[1:]]
    some = asked(pairs="design", interval_width=0.4)
    assert 5 < len(some) < 15
    found = design("design", 0.4, MODELS, some, 100)
    assert found.widest is not None
    assert found.widest <= 0.4
    assert (design("design", 0.4, MODELS, some[:-1], 100).widest or 0) > 0.4
    assert len(designed(MODELS, 100, 0.1)) == 15  # all are not enough


def test_what_a_design_leaves_out_is_said_with_the_situations_needed() -> None:
    """Two models through m0 are 2 comparisons apart: 2 * 1.96 * sqrt(2 / 100) = 0.554 wide, and a
    width of 0.2 needs (2 * 1.96 / 0.2)^2 * 2 = 768.3 situations. With all pairs of three models
    the resistance is 2/3: 256.1 situations."""
    models = ["m0", "raw", "m1"]
    found = design("design", 0.2, models, [("m0", "raw"), ("m1", "m0")], 100)
    (pair,) = found.left_out
    assert (pair.model_a, pair.model_b, pair.needed) == ("raw", "m1", 769)
    assert pair.width == found.widest == pytest.approx(0.5544, abs=1e-4)
    assert (found.judged, found.needed, found.all_pairs) == (2, 769, 257)
    assert found.in_words == (
        "2 of 3 pairs of models were judged (evaluation.pairs=design); the others only by way of "
        "other models. On 100 situations a 95% interval between two models is at most 0.55 wide, "
        "of a range of 2; 0.2 needs 769 situations, with all pairs 257."
    )
    whole = design("all", 0.2, models, list(combinations(models, 2)), 257)
    assert (whole.left_out, whole.needed) == ((), 257)
    assert (whole.widest or 1) <= 0.2
    apart = design("paper", 0.2, models, [("m0", "raw")], 100)
    assert [each.width for each in apart.left_out] == [None, None]
    assert apart.needed is None
    assert "Not all models are connected" in apart.in_words


def test_a_judge_is_not_judged_again_for_another_name_of_its_family() -> None:
    from sage_core.steps.key import identity

    judge = JudgeConfig(name="j")
    assert identity(judge) == identity(judge.model_copy(update={"family": "gpt"}))
    assert identity(judge) != identity(judge.model_copy(update={"soft": True}))
