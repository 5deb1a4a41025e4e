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

_used: ContextVar[list[tuple[Engine, EngineConfig]]] = ContextVar("used")


@contextmanager
def accounting() -> Iterator[dict[str, Any]]:
    """What the engines that are made within the block were asked for, by engine, filled in at its
    end (:class:`sage_core.engines.base.Usage` as JSON values), and ``usd``, what that costs at the
    prices in the engine's settings; 0 where there are none."""
    engines: list[tuple[Engine, EngineConfig]] = []
    token = _used.set(engines)
    usage: dict[str, Any] = {}
    try:
        yield usage
    finally:
        _used.reset(token)
        totals: dict[str, Usage] = {}
        usd: dict[str, float] = {}
        for engine, settings in engines:
            totals[engine.name] = totals.get(engine.name, Usage()) + engine.usage
            usd[engine.name] = usd.get(engine.name, 0.0) + _price(engine.usage, settings)
        usage |= {name: {**asdict(total), "usd": usd[name]} for name, total in totals.items()}


def engine_of(
    settings: EngineConfig, base: Path, model: ModelConfig, adapter: Path | None
) -> Engine:
    """The engine that a role's settings name, for the folders of m0 and of a checkpoint's adapter,
    or without ``adapter`` for m0 (:func:`sage_core.engines.opening.open_engine`)."""
    engine = open_engine(settings, base, model, adapter, sage_home())
    _used.get([]).append((engine, settings))
    return engine


def _price(usage: Usage, settings: EngineConfig) -> float:
    """USD, from prices per million tokens."""
    read, written = settings.prices or (0.0, 0.0)
    return (usage.prompt_tokens * read + usage.completion_tokens * written) / 1e6
