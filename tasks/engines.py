"""The engine that a role's settings name, and what all engines of this process share."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from sage_core.config import EngineConfig, ModelConfig, SelectorConfig
from sage_core.engines import managed_vllm, vllm_server
from sage_core.engines.answers import AnswerStore
from sage_core.engines.base import Engine, Usage
from sage_core.engines.loading import device_of
from sage_core.engines.openai_http import OpenAIEngine
from sage_core.evaluation import embedding
from sage_core.search import scorers
from sage_core.search.dialogue import Speaker
from sage_core.search.selector import Selector
from sage_core.search.setup import selector_of
from sage_core.storage import ArtifactRef
from tasks.home import sage_home, store

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


def engine_for(
    settings: EngineConfig,
    base: ArtifactRef,
    model: ModelConfig,
    adapter: ArtifactRef | None = None,
) -> Engine:
    """The engine that a role's settings name, for a checkpoint or, without ``adapter``, for m0."""
    return engine_of(
        settings, store().folder(base), model, store().folder(adapter) if adapter else None
    )


def engine_of(
    settings: EngineConfig, base: Path, model: ModelConfig, adapter: Path | None
) -> Engine:
    """:func:`engine_for` with the folders of m0 and of the checkpoint's adapter. On a server of
    the user's, without ``adapter``, it is the model that the settings name."""
    engine = _made(settings, base, model, adapter)
    _used.get([]).append(engine)
    return engine


def _made(settings: EngineConfig, base: Path, model: ModelConfig, adapter: Path | None) -> Engine:
    if settings.kind == "transformers":
        from sage_core.engines.in_process import TransformersEngine  # imports torch

        return TransformersEngine(base, adapter, model)
    answers = _answers(sage_home() / "answers.db")
    if settings.kind == "vllm":
        return managed_vllm.engine(settings, base, adapter, model, sage_home() / "logs", answers)
    if adapter:
        key = os.environ.get(settings.api_key_env, "")
        name = vllm_server.load_adapter(settings.base_url, key, adapter, settings.timeout_s)
        settings = settings.model_copy(update={"model": name})
    return OpenAIEngine(settings, answers)


@cache
def _answers(path: Path) -> AnswerStore:
    return AnswerStore(path)


def selector_for(settings: SelectorConfig, base: Path, model: ModelConfig, seed: int) -> Selector:
    """The selector that the settings name; ``base`` is the folder of m0."""
    device = device_of(model) if settings.reward_model else ""  # imports torch

    def engine() -> Engine:
        return engine_of(settings.engine, base, model, None)

    return selector_of(settings, engine, seed, device)


def release_engines() -> None:
    """Training has the machine to itself."""
    from sage_core.engines.resident import release  # imports torch

    release()
    scorers.release()
    embedding.release()
    managed_vllm.release()


def speaker(
    name: str, settings: EngineConfig, base: Path, adapter: Path | None, model: ModelConfig
) -> Speaker:
    """A model in a conversation; all but m0 and raw speak State-Action Chains."""
    engine = engine_of(settings, base, model, adapter)
    return Speaker(name, engine, states=name not in ("m0", "raw"))
