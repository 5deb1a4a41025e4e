"""What a table of judgements says of each item: both orders together, whichever model the row names
first.

A row of (b, a) is a row of (a, b) with the models changed: order ``ab`` of the one shows what order
``ba`` of the other shows. So both are one pair, named as it first appears.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from sage_core.errors import DataError
from sage_core.schema import Judgement, Order, Verdict

Pair = tuple[str, str, str]
"""Judge, model_a, model_b."""
Shown = Mapping[Order, Judgement]
"""An item's judgements by order, one or both."""
Items = Mapping[str, Shown]
"""Item id -> its judgements."""

ORDERS: tuple[Order, Order] = ("ab", "ba")
_TURNED: dict[Verdict, Verdict] = {"model_a": "model_b", "model_b": "model_a"}
_NAMED = 5  # items that a message names


def by_pair(judgements: Iterable[Judgement]) -> dict[Pair, dict[str, dict[Order, Judgement]]]:
    """The judgements by judge and pair of models, item and order; all in order of appearance.

    Raises:
        DataError: a model against itself, or items that a judge judged twice in the same order.
    """
    pairs: dict[Pair, dict[str, dict[Order, Judgement]]] = {}
    twice: list[Judgement] = []
    for row in judgements:
        pair = (row.judge, row.model_a, row.model_b)
        if pair not in pairs:
            if row.model_a == row.model_b:
                raise DataError(
                    f"item '{row.item_id}' of judge '{row.judge}' compares '{row.model_a}' with "
                    "itself; give the two models different names"
                )
            other = (row.judge, row.model_b, row.model_a)
            if other in pairs:
                pair, row = other, turned(row)
            else:
                pairs[pair] = {}
        shown = pairs[pair].setdefault(row.item_id, {})
        if row.order in shown:
            twice.append(row)
        else:
            shown[row.order] = row
    if twice:
        raise DataError(_twice(twice, pairs))
    return pairs


def turned(row: Judgement) -> Judgement:
    """The same judgement with the models named the other way around."""
    return replace(
        row,
        model_a=row.model_b,
        model_b=row.model_a,
        order="ba" if row.order == "ab" else "ab",
        verdict=_TURNED.get(row.verdict, row.verdict),
        log_odds=None if row.log_odds is None else -row.log_odds,
    )


def outcome(shown: Shown) -> Verdict:
    """What an item comes to: a win if both orders name the same model, a tie if both are parsed and
    do not, else ``unparsed``."""
    if len(shown) < len(ORDERS):
        return "unparsed"
    ab, ba = shown["ab"].verdict, shown["ba"].verdict
    if "unparsed" in (ab, ba):
        return "unparsed"
    return ab if ab == ba else "tie"


def lacking(items: Items) -> Iterator[tuple[str, Order]]:
    """The items of which one order is missing, with that order."""
    for item, shown in items.items():
        for order in ORDERS:
            if order not in shown:
                yield item, order


def _twice(rows: list[Judgement], pairs: Mapping[Pair, Items]) -> str:
    """The message for items judged twice: how many, how many of them conflict, and the first."""
    first = [
        f"item '{row.item_id}' in order '{row.order}' of '{row.model_a}' against '{row.model_b}' "
        f"by judge '{row.judge}'"
        for row in rows[:_NAMED]
    ]
    conflicting = sum(
        row.verdict != pairs[row.judge, row.model_a, row.model_b][row.item_id][row.order].verdict
        for row in rows
    )
    more = f", and {len(rows) - _NAMED:,} more" if len(rows) > _NAMED else ""
    return (
        f"{len(rows):,} judgements are a second one of their order, {conflicting:,} of them with "
        f"another verdict: {'; '.join(first)}{more}; each item has one row per order ('ab', 'ba'; "
        "'ab' of a pair is 'ba' of the pair named the other way around): remove the others"
    )
