"""The engine that a role's settings name, and what all engines of this process share."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sage_core.config.engine import EngineConfig
from sage_core.config.model import ModelConfig
from sage_core.engines.base import Engine, Usage
from sage_core.engines.opening import open_engine
from tasks.home import sage_home

_used: ContextVar[list[Engine]] = ContextVar("used")


@contextmanager
def accounting() -> Iterator[dict[str, Any]]:
    """What the engines that are made within the block were asked for, by engine, filled in at its
    end (:class:`sage_core.engines.base.Usage` as JSON values)."""
    engines: list[Engine] = []
    token = _used.set(engines)
    usage: dict[str, Any] = {}
    try:
        yield usage
    finally:
        _used.reset(token)
        totals: dict[str, Usage] = {}
        for engine in engines:
            totals[engine.name] = totals.get(engine.name, Usage()) + engine.usage
        usage |= {name: asdict(total) for name, total in totals.items()}


def engine_of(
    settings: EngineConfig, base: Path, model: ModelConfig, adapter: Path | None
) -> Engine:
    """The engine that a role's settings name, for the folders of m0 and of a checkpoint's adapter,
    or without ``adapter`` for m0 (:func:`sage_core.engines.opening.open_engine`)."""
    engine = open_engine(settings, base, model, adapter, sage_home())
    _used.get([]).append(engine)
    return engine
