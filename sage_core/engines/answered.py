"""Requests of which some may fail for themselves: the others are answered."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from sage_core.errors import ItemError

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def answered(
    ask: Callable[[Sequence[Item]], Sequence[Answer]], items: Sequence[Item]
) -> list[Answer | ItemError]:
    """The answers, with the error in place of those whose request failed for itself.

    An engine answers all or none. Where its error has the other answers, these are used; else a
    call that fails is halved until the items at fault are alone.
    """
    if not items:
        return []
    try:
        return list(ask(items))
    except ItemError as error:
        if error.failed:
            return [
                error.failed[at] if at in error.failed else error.answers[at]
                for at in range(len(items))
            ]
        if len(items) == 1:
            return [error]
        middle = len(items) // 2
        return answered(ask, items[:middle]) + answered(ask, items[middle:])
