"""From the settings of a role to its engine. Only the module of the kind that they name is
imported, so the code of the others is in no key of a step that does not use them."""

from importlib import import_module
from pathlib import Path

from sage_core.config.engine import EngineConfig
from sage_core.config.model import ModelConfig
from sage_core.engines.base import Engine

MODULES: dict[str, tuple[str, ...]] = {
    "transformers": ("sage_core.engines.in_process",),
    "openai": ("sage_core.engines.openai_http",),
    "vllm": ("sage_core.engines.managed_vllm", "sage_core.engines.vllm_plugin"),
}
"""Kind -> the module of its engine, and those that run elsewhere for it."""


def open_engine(
    settings: EngineConfig, base: Path, model: ModelConfig, adapter: Path | None, home: Path
) -> Engine:
    """The engine that ``settings`` name, for the base folder and, unless it is m0, the adapter
    folder over it. On a server of the user's, without ``adapter``, it is the model that the
    settings name. Answers and logs of servers are kept in the folder ``home``."""
    module = import_module(MODULES[settings.kind][0])
    engine: Engine = module.open_engine(settings, base, model, adapter, home)
    return engine
