"""Progress of long stages: a rich bar in the terminal and a progress artifact in the Prefect UI."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

_UPDATE_S = 2.0  # between two updates of the UI; each is a request to the server

console = Console(stderr=True)
_bars = Progress(
    TextColumn("  {task.description}"),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    console=console,
    transient=True,
    disable=not console.is_terminal,
)


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show progress of ``total`` units; yields a function to call with the units just done."""
    bar = _bars.add_task(description, total=total)
    _bars.start()
    artifact = _create(description)
    done, updated = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, updated
        done += count
        _bars.update(bar, completed=done)
        if artifact and time.monotonic() - updated > _UPDATE_S:
            updated = time.monotonic()
            update_progress_artifact(artifact, progress=min(100.0, 100.0 * done / max(total, 1)))

    try:
        yield advance
        if artifact:
            update_progress_artifact(artifact, progress=100.0)
    finally:
        _bars.remove_task(bar)
        if not _bars.tasks:
            _bars.stop()


def _create(description: str) -> UUID | None:
    if TaskRunContext.get() is None:  # a stage called as a plain function has no UI
        return None
    created = create_progress_artifact(progress=0.0, description=description)
    assert isinstance(created, UUID)
    return created
