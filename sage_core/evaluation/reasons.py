"""Why to believe a report's answer, or not: rules that hold it against what is known of its judges
and of the two models. A reason counts for the answer, against it, or leaves it open.

* *Precision*: for, where a judge shows a difference; else open, with the smallest difference that
  the widest interval would have shown.
* *Left out*: against, where a judge's answer could not be read for more than
  :data:`MOST_UNREAD` of its items.
* *Position*: for, where the interval of the share of verdicts that name the model shown first holds
  one half; else against.
* *Family*: against, where a judge is of the family of the selector, whose taste the models were
  trained to please.
* *People*: for, where a judge agrees with people more often than chance; against, where it agrees
  less often; open, where that is not shown. No reason for judges without such a comparison.
* *Length*: against, where the preferred model's replies are longer, since judges favour longer
  ones; for, where they are shorter; the intervals of the two lengths must not overlap. No reason
  where no model is preferred.
* *Without a judge*: for, where first replies are matched to their situation more often by
  embeddings, on the side of the preferred model; against, on the other side; open, where the
  interval holds zero. No reason for pairs that were not measured on the same situations.
* *Collapse*: against, where a model of the pair did not pass the gates.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sage_core.evaluation.answer import Finding, excludes_zero, figures_of, preferred
from sage_core.evaluation.judge_evidence import JudgeEvidence
from sage_core.evaluation.metrics import ModelMetrics, Rate
from sage_core.evaluation.quality import BASELINE, Quality
from sage_core.evaluation.winrate import PairSummary

MOST_UNREAD = 0.05
_RECOVERED = "situation_recovery_embedding"

Stance = Literal["for", "against", "open"]


@dataclass(frozen=True)
class Reason:
    """Why to believe the answer or not, and the section of the report that shows it."""

    stance: Stance
    text: str
    anchor: str


def reasons(
    found: Finding,
    summaries: Sequence[PairSummary],
    position_bias: Mapping[str, Rate],
    models: Sequence[ModelMetrics],
    quality: Quality | None,
    collapsed: Mapping[str, Sequence[str]],
    known: JudgeEvidence | None = None,
) -> list[Reason]:
    """Why to believe a finding or not, by the rules of the module; ``collapsed``: model -> the
    gates that it did not pass; ``known``: what is known of the judges."""
    asked = [each for each in summaries if (each.model_a, each.model_b) == found.pair]
    return [
        *_of_precision(asked),
        *_of_unread(asked),
        *_of_position([each.judge for each in asked], position_bias),
        *_of_judges([each.judge for each in asked], known or JudgeEvidence()),
        *_of_length(found, models),
        *_without_judge(found, quality),
        *_of_collapse(found.pair, collapsed),
    ]


def _of_precision(asked: Sequence[PairSummary]) -> Iterator[Reason]:
    counted = [each for each in asked if each.ci_low is not None and each.ci_high is not None]
    if not counted:
        return
    items = max(each.n for each in counted)
    if any(preferred(each) for each in counted):
        yield Reason("for", f"Chance alone would hardly give this on {items:,} items.", "result")
        return
    widest = max((each.ci_high or 0.0) - (each.ci_low or 0.0) for each in counted) / 2
    yield Reason(
        "open",
        f"With {items:,} items an interval reaches {100 * widest:.0f} points to either side: "
        "smaller differences do not show.",
        "result",
    )


def _of_unread(asked: Sequence[PairSummary]) -> Iterator[Reason]:
    for each in asked:
        seen = each.n + each.unparsed
        if seen and each.unparsed / seen > MOST_UNREAD:
            yield Reason(
                "against",
                f"{each.judge} gave no verdict that could be read on {each.unparsed:,} of "
                f"{seen:,} items.",
                "result",
            )


def _of_position(judges: Sequence[str], bias: Mapping[str, Rate]) -> Iterator[Reason]:
    for judge in judges:
        rate = bias.get(judge)
        if rate is None or rate.value is None or rate.ci_low is None or rate.ci_high is None:
            continue
        share = (
            f"{100 * rate.value:.0f}% [{100 * rate.ci_low:.0f}, {100 * rate.ci_high:.0f}] of "
            f"{rate.n:,} verdicts"
        )
        if rate.ci_low <= 0.5 <= rate.ci_high:
            text = f"{judge} shows no position bias: it named the model shown first in {share}."
            yield Reason("for", text, "bias")
        else:
            yield Reason(
                "against",
                f"{judge} goes by position: it named the model shown first in {share}. Such items "
                "end as ties, so it can tell less.",
                "bias",
            )


def _of_judges(judges: Sequence[str], known: JudgeEvidence) -> Iterator[Reason]:
    for judge in judges:
        if known.own_family(judge):
            yield Reason(
                "against",
                f"{judge} is of the family of the selector ({known.selector}): it may like what "
                "the models were trained to do.",
                "judges",
            )
        if human := known.calibrated(judge):
            low, high = human.accuracy.ci_low, human.accuracy.ci_high
            stance: Stance = "open"
            if low is not None and high is not None:
                stance = "for" if low > 0.5 else "against" if high < 0.5 else "open"
            yield Reason(stance, f"{judge}, compared with people: {human.in_words}.", "judges")


def _of_length(found: Finding, models: Sequence[ModelMetrics]) -> Iterator[Reason]:
    if found.winner is None:
        return
    words = {each.model: each.reply_words for each in models}
    (loser,) = {*found.pair} - {found.winner}
    if not {found.winner, loser} <= words.keys():
        return
    won, lost = words[found.winner], words[loser]
    if won.value is None or lost.value is None:
        return
    lengths = f"{won.value:.0f} words against {lost.value:.0f}"
    if won.ci_low is not None and lost.ci_high is not None and won.ci_low > lost.ci_high:
        yield Reason(
            "against",
            f"Judges tend to favour longer replies, and those of {found.winner} are longer: "
            f"{lengths}.",
            "models",
        )
    elif won.ci_high is not None and lost.ci_low is not None and won.ci_high < lost.ci_low:
        text = (
            f"A taste for long replies is not the cause: those of {found.winner} are shorter, "
            f"{lengths}."
        )
        yield Reason("for", text, "models")


def _without_judge(found: Finding, quality: Quality | None) -> Iterator[Reason]:
    a, b = found.pair
    figure = figures_of(quality).get(b, {}).get(_RECOVERED)
    change = figure.vs_m1 if figure and a == BASELINE else None
    if change is None or change.value is None or change.ci_low is None or change.ci_high is None:
        return
    told = (
        f"First replies matched to their situations by embeddings, {b} against {a}: "
        f"{100 * change.value:+.0f} points "
        f"[{100 * change.ci_low:+.0f}, {100 * change.ci_high:+.0f}]"
    )
    if not excludes_zero(change):
        yield Reason("open", f"{told}, which does not tell the two apart.", "quality")
    elif found.winner is None:
        yield Reason("open", f"{told}, a difference that no judge shows.", "quality")
    elif (change.value > 0) == (found.winner == b):
        yield Reason("for", f"{told}, which no judge has a part in.", "quality")
    else:
        yield Reason("against", f"{told}, the other way than the judges.", "quality")


def _of_collapse(pair: tuple[str, str], collapsed: Mapping[str, Sequence[str]]) -> Iterator[Reason]:
    for model in pair:
        if failed := collapsed.get(model):
            yield Reason(
                "against", f"{model} shows signs of collapse: {'; '.join(failed)}.", "search"
            )
