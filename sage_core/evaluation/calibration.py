"""How far a judge agrees with people."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sage_core.evaluation.agreement import Agreement, kappa
from sage_core.evaluation.human import HumanItem, HumanPreferences
from sage_core.evaluation.metrics import Rate
from sage_core.evaluation.outcomes import ORDERS, Shown, by_pair, outcome
from sage_core.evaluation.styles import said
from sage_core.schema import Judgement

SIDES = ("first", "second")
"""What the two conversations of an item are called in judgements."""
LENGTH_RATIO = 1.2
LENGTHS = ("preferred one longer", "about as long", "preferred one shorter")


@dataclass(frozen=True)
class Calibration:
    """One judge against people. Rates count items of the file as independent.

    Attributes:
        layout, records, unused: of the file (:class:`sage_core.evaluation.human.HumanPreferences`).
        items: that were judged; ``unparsed`` of them do not count, as in win rates.
        same: of the items that count, those with the same of three labels (first, second, tie).
        accuracy: of the items for which people and judge both name a conversation, those for which
            they name the same; one half is chance.
        kappa: Cohen's, of the three labels.
        soft: of the items for which people name a conversation, those whose soft verdict names the
            same; n = 0 without soft verdicts.
        by_length: ``accuracy`` by which conversation has more characters, by a factor of 1.2.
        people: of all two votes on one item, those that are the same: what can be hoped for.
    """

    judge: str
    layout: str
    records: int
    unused: dict[str, int]
    items: int
    unparsed: int
    same: Rate
    accuracy: Rate
    kappa: Agreement
    soft: Rate
    by_length: dict[str, Rate]
    people: Rate

    @property
    def in_words(self) -> str:
        """How far the judge can be believed, by the interval of ``accuracy``."""
        low, high = self.accuracy.ci_low, self.accuracy.ci_high
        if low is None or high is None:
            return "not known: no item that both people and judge decide"
        if low > 0.5:
            return "agrees with people more often than chance"
        if high < 0.5:
            return "agrees with people less often than chance"
        return "not shown to agree with people more often than chance"


def drawn(human: HumanPreferences, number: int, seed: int) -> list[HumanItem]:
    """``number`` of the items by chance (0 = all), in the order of the file."""
    if not number or number >= len(human.items):
        return list(human.items)
    chosen = np.random.default_rng(seed).choice(len(human.items), number, replace=False)
    return [human.items[place] for place in sorted(chosen)]


def calibration(
    judge: str,
    human: HumanPreferences,
    items: Sequence[HumanItem],
    judgements: Sequence[Judgement],
) -> Calibration:
    """What the judgements of ``items`` (:data:`SIDES` are their models) say of the judge."""
    judged = by_pair(judgements).get((judge, *SIDES), {})
    both = [
        (item, found)
        for item in items
        if (found := outcome(judged.get(item.item_id, {}))) != "unparsed"
    ]
    decided = [(i, found) for i, found in both if i.label != "tie" and found != "tie"]
    lengths: dict[str, list[bool]] = {name: [] for name in LENGTHS}
    for item, found in decided:
        lengths[_longer(item)].append(item.label == found)
    soft = [
        (odds > 0) == (item.label == "model_b")
        for item in items
        if item.label != "tie" and (odds := _soft(judged.get(item.item_id, {})))
    ]
    labels = [item.label for item, _ in both], [found for _, found in both]
    return Calibration(
        judge=judge,
        layout=human.layout,
        records=human.records,
        unused=human.unused,
        items=len(items),
        unparsed=len(items) - len(both),
        same=_share([a == b for a, b in zip(*labels, strict=True)]),
        accuracy=_share([item.label == found for item, found in decided]),
        kappa=kappa(*labels),
        soft=_share(soft),
        by_length={name: _share(found) for name, found in lengths.items()},
        people=_share(
            [
                vote == other
                for item in human.items
                for place, vote in enumerate(item.votes)
                for other in item.votes[place + 1 :]
            ]
        ),
    )


def _share(found: Sequence[bool]) -> Rate:
    return Rate.of(sum(found), len(found))


def _soft(shown: Shown) -> float:
    """The soft verdict; 0 where there is none."""
    odds = [shown[order].log_odds for order in ORDERS if order in shown]
    known = [each for each in odds if each is not None]
    return sum(known) / len(known) if len(known) == len(ORDERS) else 0.0


def _longer(item: HumanItem) -> str:
    preferred, other = (item.a, item.b) if item.label == "model_a" else (item.b, item.a)
    ratio = max(1, len(said(preferred))) / max(1, len(said(other)))
    if ratio > LENGTH_RATIO:
        return LENGTHS[0]
    return LENGTHS[2] if ratio < 1 / LENGTH_RATIO else LENGTHS[1]
