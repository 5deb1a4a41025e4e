"""Progress of trainers."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from sage_core.steps.base import Context


@contextmanager
def training_progress(context: Context, description: str) -> Iterator[Callable[[int, int], None]]:
    """For a trainer, which says only at its first step how many there are."""
    with ExitStack() as stack:
        advance: Callable[[int], None] | None = None
        done = 0

        def on_step(step: int, steps: int) -> None:
            nonlocal advance, done
            if advance is None:
                advance = stack.enter_context(context.progress(description, steps))
            advance(step - done)
            done = step

        yield on_step
