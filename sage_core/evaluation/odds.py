"""How likely a judge is to name either conversation: its log-odds, for a soft verdict."""

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite

from sage_core.engines.answered import answered
from sage_core.engines.base import Engine, Request
from sage_core.errors import ItemError
from sage_core.schema import Message, Order

_QUESTION = "Answer with the letter of the better conversation, A or B, and nothing else."
_LETTERS = ("A", "B")


def log_odds(
    engine: Engine, requests: Sequence[Request], orders: Sequence[Order], asked: str
) -> list[float | None]:
    """log P(model_b) - log P(model_a) of each showing, in nats; None where the engine gives no
    probability for a letter, or the request fails for itself.

    Args:
        requests: those of the verdicts; ``asked``, at the end of each, is how they ask for them,
            and gives way to a question that one letter answers.
    """
    letters = [replace(each, messages=_messages(each, asked), constraint=None) for each in requests]
    scores = answered(lambda some: engine.choose(some, [_LETTERS] * len(some)), letters)
    return [
        None if isinstance(both, ItemError) else _odds(both[0], both[1], order)
        for both, order in zip(scores, orders, strict=True)
    ]


def _messages(request: Request, asked: str) -> tuple[Message, ...]:
    *before, last = request.messages
    return (*before, replace(last, content=f"{last.content.removesuffix(asked)}{_QUESTION}"))


def _odds(a: float, b: float, order: Order) -> float | None:
    if not (isfinite(a) and isfinite(b)):
        return None
    return b - a if order == "ab" else a - b
