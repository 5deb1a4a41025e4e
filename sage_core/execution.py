"""How what is made was computed, for its manifest: what cannot change it beyond rounding, and
depends on the model and on the libraries."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_notes: ContextVar[dict[str, str] | None] = ContextVar("notes", default=None)


def note(what: str, how: str) -> None:
    """Say how something was computed, to whoever is :func:`noting`."""
    notes = _notes.get()
    if notes is not None:
        notes[what] = how


@contextmanager
def noting() -> Iterator[dict[str, str]]:
    """What is noted within the block."""
    notes: dict[str, str] = {}
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)
