"""The SAGE home for a command that runs one stage."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sage_core.config.pipeline import PipelineConfig


@contextmanager
def locked_home(preset: str, overrides: list[str] | None, wait: bool) -> Iterator["PipelineConfig"]:
    """The settings of a stage that runs by itself, with its environment and the lock of the home,
    into which m0 and what servers answer are written."""
    from flows import environment
    from sage_core.config.loading import load_config
    from tasks import home

    config = load_config(preset, overrides or ())
    with home.held(wait=wait):
        environment.prepare(quiet=True)
        yield config
