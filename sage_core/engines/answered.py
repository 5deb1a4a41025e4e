"""Requests of which some may be too long for the context: the others are answered."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from sage_core.errors import ContextError

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def answered(
    ask: Callable[[Sequence[Item]], Sequence[Answer]], items: Sequence[Item]
) -> list[Answer | ContextError]:
    """The answers, with the error in place of those whose prompt is too long for the context.

    Engines answer all or none, so a call that fails is halved until the items at fault are alone.
    """
    if not items:
        return []
    try:
        return list(ask(items))
    except ContextError as error:
        if len(items) == 1:
            return [error]
        middle = len(items) // 2
        return answered(ask, items[:middle]) + answered(ask, items[middle:])
