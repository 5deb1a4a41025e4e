"""The answer of a run in sentences, made from its figures by these rules.

*Who wins.* A judge prefers a model where Holm's p is below
:data:`~sage_core.evaluation.winrate.SIGNIFICANCE`. Judges without an item that counts are not
asked. The sentence says how many judges prefer which model.

*What else changed.* Said of models that were compared with m1 on the same situations: a measure of
:data:`TOLD` has changed where the 95% interval of its paired difference excludes zero. The number
of measures is part of the sentence, since of many some change by chance.

*Which pair is the answer.* The last refinement against the model before it; without one, m1 against
m0; else the last pair that was judged.

:mod:`sage_core.evaluation.reasons` says why to believe the answer, or not.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sage_core.evaluation.quality import BASELINE, MEASURES, Difference, Figure, Quality
from sage_core.evaluation.winrate import SIGNIFICANCE, PairSummary

TOLD = {
    "reply_words": "reply length",
    "question_rate": "questions",
    "situation_recovery": "situations recovered by m0",
    "situation_recovery_embedding": "situations recovered by embeddings",
    "situation_rank": "rank of the situation by m0",
    "situation_rank_embedding": "rank of the situation by embeddings",
    "loglik_m0": "log-likelihood under m0",
    "content_overlap": "words taken up",
    "sentiment_agreement": "same sentiment",
    "emotion_accuracy": "emotions recognised",
    "cut_share": "replies cut off",
    "stray_braces": "stray braces",
}
"""The measures that the answer speaks of, and what it calls them. Ranks show smaller effects than
first places do; the sign of the emotion says what its name says, more coarsely."""

_MINUS = "\N{MINUS SIGN}"
_REFINED = re.compile(r"m([1-9]\d*)")

Pair = tuple[str, str]


@dataclass(frozen=True)
class Finding:
    """What a run says of one pair of models.

    Attributes:
        sentence: who wins, in the eyes of how many judges.
        changed: what else changed, in words; empty where nothing is known of it.
        winner: the model that all judges with a preference prefer; None where there is no such.
    """

    pair: Pair
    sentence: str
    changed: str
    winner: str | None

    @property
    def text(self) -> str:
        """Both, as one sentence."""
        return f"{self.sentence}{'; ' if self.changed else ''}{self.changed}."


@dataclass(frozen=True)
class Answer:
    """The finding that answers the run's question, and those of the other pairs."""

    headline: Finding
    others: tuple[Finding, ...]


def answer(summaries: Sequence[PairSummary], quality: Quality | None) -> Answer | None:
    """The answer of a run; None where nothing was judged."""
    pairs = list(dict.fromkeys((each.model_a, each.model_b) for each in summaries))
    if not pairs:
        return None
    found = {pair: finding(pair, summaries, quality) for pair in pairs}
    headline = main_pair(pairs)
    return Answer(found[headline], tuple(found[pair] for pair in pairs if pair != headline))


def main_pair(pairs: Sequence[Pair]) -> Pair:
    """The pair that is the answer; see the module."""

    def refined(model: str) -> int:
        match = _REFINED.fullmatch(model)
        return int(match[1]) if match else 0

    rounds = [pair for pair in pairs if refined(pair[0]) and refined(pair[1])]
    if rounds:
        return max(rounds, key=lambda pair: refined(pair[1]))
    return ("m0", "m1") if ("m0", "m1") in pairs else pairs[-1]


def finding(pair: Pair, summaries: Iterable[PairSummary], quality: Quality | None) -> Finding:
    """What the judges and the measures without a judge say of one pair."""
    a, b = pair
    asked = [each for each in summaries if (each.model_a, each.model_b) == pair and each.n]
    votes = [preferred(each) for each in asked]
    for_a, for_b = votes.count(a), votes.count(b)
    winner = None if bool(for_a) == bool(for_b) else a if for_a else b
    return Finding(
        pair,
        _sentence(pair, [each.judge for each in asked], for_a, for_b),
        _changed(*changes(pair, quality), decided=winner is not None),
        winner,
    )


def changes(pair: Pair, quality: Quality | None) -> tuple[list[str], int]:
    """The measures that changed from m1 to the pair's second model, by how much, and how many were
    compared: none where the pair was not measured on the same situations.

    A share's change is in points. That of a mean above zero is in percent of m1's, that of any
    other mean (a log-likelihood) in its own unit.
    """
    figures = figures_of(quality)
    if pair[0] != BASELINE or not {*pair} <= figures.keys():
        return [], 0
    before, after = figures[BASELINE], figures[pair[1]]
    shares = {measure.name: measure.share for measure in MEASURES}
    compared = {
        name: change for name in TOLD if name in after and (change := after[name].vs_m1) is not None
    }
    changed = [
        f"{TOLD[name]} {_amount(change, before[name].value, share=shares[name])}"
        for name, change in compared.items()
        if excludes_zero(change)
    ]
    return changed, len(compared)


def excludes_zero(change: Difference) -> bool:
    """Whether the 95% interval is on one side of zero."""
    low, high = change.ci_low, change.ci_high
    return low is not None and high is not None and (low > 0 or high < 0)


# --- sentences -----------------------------------------------------------------------------------


def _sentence(pair: Pair, judges: Sequence[str], for_a: int, for_b: int) -> str:
    a, b = pair
    if not judges:
        return f"No judge could compare {a} with {b}"
    if for_a and for_b:
        return (
            f"Of {len(judges)} judges {_number(for_b)} prefer{'' if for_b > 1 else 's'} {b} and "
            f"{_number(for_a)} {a}"
        )
    if not for_a and not for_b:
        who = f"The judge {judges[0]}" if len(judges) == 1 else f"None of {len(judges)} judges"
        return f"{who} shows {'no' if len(judges) == 1 else 'a'} difference between {a} and {b}"
    winner, loser = (b, a) if for_b else (a, b)
    agreed = for_a + for_b
    if len(judges) == 1:
        eyes = f"the one judge, {judges[0]}"
    elif agreed == len(judges):
        eyes = f"all {_number(agreed)} judges"
    else:
        eyes = f"{_number(agreed)} of {_number(len(judges))} judges"
    return f"{winner} beats {loser} in the eyes of {eyes}"


def _changed(found: Sequence[str], compared: int, *, decided: bool) -> str:
    if not compared:
        return ""
    if not found:
        return f"none of {compared} measures without a judge changed"
    told = f"{_listed(found)}, of {compared} measures without a judge"
    return f"nothing {'else ' if decided else ''}changed but {told}"


def _amount(change: Difference, before: float | None, *, share: bool) -> str:
    assert change.value is not None
    if share:
        return _signed(100 * change.value, " points")
    if before is not None and before > 0:
        return _signed(100 * change.value / before, "%")
    sign = _MINUS if change.value < 0 else "+"
    return f"{sign}{abs(change.value):.2f}"


def _signed(value: float, unit: str) -> str:
    return f"{_MINUS if value < 0 else '+'}{abs(value):.0f}{unit}"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _number(count: int) -> str:
    words = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return words[count] if count < len(words) else str(count)


def preferred(summary: PairSummary) -> str | None:
    """The model that the judge prefers beyond chance; None where it shows no difference."""
    if summary.p_holm is None or summary.p_holm >= SIGNIFICANCE:
        return None
    return summary.model_b if summary.wins_b > summary.wins_a else summary.model_a


def figures_of(quality: Quality | None) -> dict[str, dict[str, Figure]]:
    """The figures of each model, by measure."""
    return {each.model: each.figures for each in quality.models} if quality else {}
