"""The answer in sentences, and the reasons for and against it: each stated rule, and its edge."""

from dataclasses import replace

import pytest

from sage_core.evaluation.agreement import Agreement
from sage_core.evaluation.answer import TOLD, Finding, answer, changes, finding, main_pair
from sage_core.evaluation.calibration import Calibration
from sage_core.evaluation.judge_evidence import JudgeEvidence
from sage_core.evaluation.metrics import Mean, ModelMetrics, Rate
from sage_core.evaluation.quality import MEASURES, Difference, Figure, ModelQuality, Quality
from sage_core.evaluation.reasons import Reason, reasons
from sage_core.evaluation.winrate import PairSummary
from sage_core.states import SINGLE

WON = PairSummary("x", "m1", "m2", 200, 60, 40, 100, 0, 0.001, 0.004, 0.08, 0.32)
TIED = replace(WON, wins_a=80, wins_b=80, p_value=1.0, p_holm=1.0, ci_low=-0.1, ci_high=0.1)
LOST = replace(WON, wins_a=100, wins_b=60, ci_low=-0.32, ci_high=-0.08)
NONE = PairSummary("x", "m1", "m2", 0, 0, 0, 0, 9, None, None, None, None)
PAIR = ("m1", "m2")


def judges(*verdicts: PairSummary) -> list[PairSummary]:
    return [replace(each, judge=f"judge {number}") for number, each in enumerate(verdicts, 1)]


def quality(**changed: tuple[float, float, float, float]) -> Quality:
    """Of measure -> (m1's value, the difference, its interval)."""
    before = {name: Figure(32, value, None, None) for name, (value, *_) in changed.items()}
    after = {
        name: Figure(32, value + change, None, None, Difference(32, change, low, high))
        for name, (value, change, low, high) in changed.items()
    }
    return Quality("e", 12, (ModelQuality("m1", before), ModelQuality("m2", after)))


@pytest.mark.parametrize(
    ("verdicts", "sentence", "winner"),
    [
        ([WON], "m2 beats m1 in the eyes of the one judge, judge 1", "m2"),
        ([LOST], "m1 beats m2 in the eyes of the one judge, judge 1", "m1"),
        ([WON, WON, TIED], "m2 beats m1 in the eyes of two of three judges", "m2"),
        ([WON, WON], "m2 beats m1 in the eyes of all two judges", "m2"),
        ([WON, NONE], "m2 beats m1 in the eyes of the one judge, judge 1", "m2"),
        ([TIED], "The judge judge 1 shows no difference between m1 and m2", None),
        ([TIED, TIED], "None of 2 judges shows a difference between m1 and m2", None),
        ([WON, LOST, TIED], "Of 3 judges one prefers m2 and one m1", None),
        ([WON, LOST, WON], "Of 3 judges two prefer m2 and one m1", None),
        ([NONE], "No judge could compare m1 with m2", None),
    ],
)
def test_who_wins_in_the_eyes_of_how_many(
    verdicts: list[PairSummary], sentence: str, winner: str | None
) -> None:
    found = finding(PAIR, judges(*verdicts), None)
    assert (found.sentence, found.winner) == (sentence, winner)
    assert found.text == f"{sentence}."  # nothing is known of what else changed


@pytest.mark.parametrize("p", [0.049, 0.05])
def test_the_words_follow_the_corrected_p(p: float) -> None:
    """The interval excludes zero in both cases."""
    found = finding(PAIR, judges(replace(WON, p_holm=p)), None)
    assert (found.winner == "m2") == (p < 0.05)


def test_what_else_changed() -> None:
    """A length from 60 words to 41.4 is a change of -31%; a share's change is in points."""
    measured = quality(
        reply_words=(60.0, -18.6, -24.0, -12.0), question_rate=(0.5, 0.1, -0.02, 0.2)
    )
    found = finding(PAIR, judges(WON, WON, TIED), measured)
    assert found.text == (
        "m2 beats m1 in the eyes of two of three judges; nothing else changed but reply length "
        "\N{MINUS SIGN}31%, of 2 measures without a judge."
    )
    assert finding(PAIR, judges(TIED), measured).changed.startswith("nothing changed but")


def test_units_of_what_changed() -> None:
    measured = quality(
        question_rate=(0.5, 0.12, 0.02, 0.2),
        loglik_m0=(-3.0, -0.25, -0.4, -0.1),
        cut_share=(0.0, 0.25, 0.125, 0.5),
        content_overlap=(0.2, 0.0, 0.0, 0.0),
    )
    assert changes(PAIR, measured) == (
        ["questions +12 points", "log-likelihood under m0 \N{MINUS SIGN}0.25",
         "replies cut off +25 points"],
        4,
    )  # fmt: skip


def test_the_answer_speaks_of_every_measure_but_the_coarser_one() -> None:
    """A report said that nothing had changed while the ranks had."""
    assert {measure.name for measure in MEASURES} - {*TOLD} == {"emotion_polarity"}
    ranks = quality(
        situation_rank=(2.4, -0.6, -1.3, -0.1), situation_recovery=(0.6, 0.05, -0.1, 0.2)
    )
    assert changes(PAIR, ranks) == (["rank of the situation by m0 \N{MINUS SIGN}25%"], 2)


def test_an_interval_that_touches_zero_is_no_change() -> None:
    measured = quality(reply_words=(60.0, 5.0, 0.0, 9.0))
    found = finding(PAIR, judges(WON), measured)
    assert found.changed == "none of 1 measures without a judge changed"


def test_nothing_is_said_of_what_was_not_measured_on_the_same_situations() -> None:
    assert changes(("m0", "m1"), quality(reply_words=(60.0, 5.0, 1.0, 9.0))) == ([], 0)
    unknown = replace(quality(), models=(ModelQuality("m1", {}),))
    assert changes(PAIR, unknown) == ([], 0)


@pytest.mark.parametrize(
    ("pairs", "main"),
    [
        ([("m0", "m1"), ("raw", "m1"), ("m1", "m2"), ("m2", "m3"), ("m0", "dpo")], ("m2", "m3")),
        ([("m9", "m10"), ("m1", "m2")], ("m9", "m10")),
        ([("raw", "m1"), ("m0", "m1"), ("m1", "dpo")], ("m0", "m1")),
        ([("m2 of A", "m2 of B")], ("m2 of A", "m2 of B")),
    ],
)
def test_which_pair_is_the_answer(pairs: list[tuple[str, str]], main: tuple[str, str]) -> None:
    assert main_pair(pairs) == main
    summaries = [replace(WON, model_a=a, model_b=b) for a, b in pairs]
    found = answer(summaries, None)
    assert found is not None
    assert found.headline.pair == main
    assert [each.pair for each in found.others] == [pair for pair in pairs if pair != main]


def test_nothing_judged_has_no_answer() -> None:
    assert answer([], None) is None


def words(model: str, low: float, high: float) -> ModelMetrics:
    length = Mean(32, (low + high) / 2, low, high)
    return ModelMetrics(model, length, Rate.of(0, 0), None, Rate.of(0, 0), *({} for _ in SINGLE))


FOUND = Finding(PAIR, "", "", "m2")
OPEN = replace(FOUND, winner=None)


def why(
    found: Finding = FOUND,
    summaries: tuple[PairSummary, ...] = (),
    bias: dict[str, Rate] | None = None,
    models: tuple[ModelMetrics, ...] = (),
    measured: Quality | None = None,
    collapsed: dict[str, tuple[str, ...]] | None = None,
    known: JudgeEvidence | None = None,
) -> list[Reason]:
    return reasons(found, summaries, bias or {}, models, measured, collapsed or {}, known)


def test_precision() -> None:
    assert [each.stance for each in why(summaries=(WON, TIED))] == ["for"]
    (reason,) = why(OPEN, (TIED,))
    assert reason.stance == "open"
    assert "200 items an interval reaches 10 points" in reason.text
    assert why(OPEN, (replace(NONE, unparsed=0),)) == []


def test_unreadable_answers() -> None:
    """5% of 200 items is 10."""
    at_most = replace(WON, n=190, unparsed=10)
    assert [each.stance for each in why(summaries=(at_most,))] == ["for"]
    more = replace(WON, n=189, unparsed=11)
    reason = why(summaries=(more,))[1]
    assert (reason.stance, reason.text) == (
        "against", "x gave no verdict that could be read on 11 of 200 items."
    )  # fmt: skip


@pytest.mark.parametrize(("first", "stance"), [(50, "for"), (95, "against"), (5, "against")])
def test_position(first: int, stance: str) -> None:
    found = why(summaries=(WON,), bias={"x": Rate.of(first, 100), "another": Rate.of(99, 100)})
    assert [each.stance for each in found if each.anchor == "bias"] == [stance]


@pytest.mark.parametrize(("family", "stances"), [("llama", ["against"]), ("qwen", [])])
def test_a_judge_of_the_selectors_family(family: str, stances: list[str]) -> None:
    known = JudgeEvidence(families={"x": family, "another": "llama"}, selector="llama")
    found = why(summaries=(WON,), known=known)
    assert [each.stance for each in found if each.anchor == "judges"] == stances


@pytest.mark.parametrize(("same", "stance"), [(80, "for"), (50, "open"), (20, "against")])
def test_a_judge_against_people(same: int, stance: str) -> None:
    none, kappa = Rate.of(0, 0), Agreement(0, None, None, None)
    compared = Calibration(
        "x", "f", 100, {}, 100, 0, none, Rate.of(same, 100), kappa, none, {}, none
    )
    found = why(summaries=(WON,), known=JudgeEvidence(calibrations=(compared,)))
    (reason,) = [each for each in found if each.anchor == "judges"]
    assert (reason.stance, reason.text) == (
        stance,
        f"x, compared with people: {compared.in_words}.",
    )


@pytest.mark.parametrize(
    ("of_m1", "of_m2", "stances"),
    [((10, 20), (30, 40), ["against"]), ((30, 40), (10, 20), ["for"]), ((10, 30), (30, 40), [])],
)
def test_length(of_m1: tuple[int, int], of_m2: tuple[int, int], stances: list[str]) -> None:
    models = (words("m1", *of_m1), words("m2", *of_m2))
    assert [each.stance for each in why(models=models)] == stances
    assert why(OPEN, models=models) == []


@pytest.mark.parametrize(
    ("change", "winner", "stance"),
    [
        ((0.5, 0.25, 0.1, 0.4), "m2", "for"),
        ((0.5, 0.25, 0.1, 0.4), "m1", "against"),
        ((0.5, -0.25, -0.4, -0.1), "m2", "against"),
        ((0.5, 0.25, 0.0, 0.4), "m2", "open"),
        ((0.5, 0.25, 0.1, 0.4), None, "open"),
    ],
)
def test_without_a_judge(
    change: tuple[float, float, float, float], winner: str | None, stance: str
) -> None:
    measured = quality(situation_recovery_embedding=change)
    (reason,) = why(replace(FOUND, winner=winner), measured=measured)
    assert (reason.stance, reason.anchor) == (stance, "quality")
    assert f"{100 * change[1]:+.0f} points" in reason.text


def test_collapse() -> None:
    (reason,) = why(collapsed={"m2": ("cut_share is 0.9, over 0.5",), "m3": ("x",), "m1": ()})
    assert reason.stance == "against"
    assert "m2 shows signs of collapse: cut_share is 0.9" in reason.text
