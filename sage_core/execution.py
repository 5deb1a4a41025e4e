"""How what is made was computed, for its manifest: what cannot change it beyond rounding, and
depends on the model and on the libraries."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_notes: ContextVar[dict[str, str] | None] = ContextVar("notes", default=None)


def note(what: str, how: str) -> None:
    """Say how something was computed, to whoever is :func:`noting`."""
    notes = _notes.get()
    if notes is not None:
        notes[what] = how


def noter() -> Callable[[str, str], None]:
    """:func:`note` for whoever is :func:`noting` here, to be called from any thread."""
    notes = _notes.get()
    return (lambda what, how: None) if notes is None else notes.__setitem__


@contextmanager
def noting() -> Iterator[dict[str, str]]:
    """What is noted within the block."""
    notes: dict[str, str] = {}
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)
