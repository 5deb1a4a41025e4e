"""Models opened for a program's own use: an engine, or a conversation."""

import os
from pathlib import Path

from sage_core.chat import Chat
from sage_core.config.engine import EngineConfig, TransformersConfig
from sage_core.config.model import ModelConfig
from sage_core.config.pipeline import PipelineConfig
from sage_core.engines.base import Engine
from sage_core.engines.loading import BASE, prepare_base
from sage_core.engines.opening import open_engine
from sage_core.engines.steering import Steering
from sage_core.search.dialogue import Speaker
from sage_core.storage import digest


def open_model(
    model: ModelConfig,
    adapter: str | Path | None = None,
    *,
    engine: EngineConfig = TransformersConfig(),  # noqa: B008 - frozen
    home: Path | None = None,
) -> Engine:
    """An engine over ``model.base``, or over a checkpoint of it.

    The base is prepared once and kept in the folder ``bases`` of the home, ``SAGE_HOME`` or
    ``.sage`` by default, as are the answers of servers.

    Args:
        adapter: the checkpoint's folder, as training and ``sage train`` write it.

    Raises:
        ConfigError: the base does not exist, has no weights, or has a template that cannot be used.
        EngineError: it cannot be opened here.
    """
    home = home or Path(os.environ.get("SAGE_HOME", ".sage"))
    base = home / "bases" / digest([model.base, model.chat_template_arguments])[:16]
    if not (base / BASE).exists():  # which is written last
        base.mkdir(parents=True, exist_ok=True)
        prepare_base(base, model)
    return open_engine(engine, base, model, Path(adapter) if adapter else None, home)


def open_chat(
    config: PipelineConfig,
    adapter: str | Path | None = None,
    *,
    states: bool | None = None,
    steering: Steering = Steering(),  # noqa: B008 - frozen
) -> Chat:
    """A conversation with ``config.model``, or with a checkpoint of it, under the profile and the
    engine of the evaluation.

    Args:
        states: whether the model writes State-Action Chains; a checkpoint does, unless it is raw.
        steering: what is asked of its states.

    Raises:
        ConfigError, EngineError: as :func:`open_model`; or steering without states.
    """
    settings = config.evaluation.selfplay
    engine = open_model(config.model, adapter, engine=settings.agent_engine)
    speaks = adapter is not None if states is None else states
    name = Path(adapter).name if adapter else "m0"
    agent = Speaker(name, engine, speaks, config.conversation.agent)
    return Chat(agent, settings, config.seed, steering)
