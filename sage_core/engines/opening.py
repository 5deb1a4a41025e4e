"""From the settings of a role to its engine, and to what can be known before it is opened.

Only the modules that the settings name are imported, so the code of other engines is in no key of a
step that does not use them.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from sage_core.checks import Check
from sage_core.config.engine import EngineConfig
from sage_core.config.model import ModelConfig
from sage_core.engines.base import Engine
from sage_core.named import load


def open_engine(
    settings: EngineConfig, base: Path, model: ModelConfig, adapter: Path | None, home: Path
) -> Engine:
    """The engine that ``settings`` name, for the base folder and, unless it is m0, the adapter
    folder over it. What the settings name is called with the same arguments. Answers and logs of
    servers are kept in the folder ``home``."""
    engine: Engine = load(settings.named.path)(settings, base, model, adapter, home)
    return engine


def check(settings: EngineConfig) -> None:
    """Check what can be checked before a run.

    Raises:
        SageError: the engine cannot be opened here.
    """
    if settings.checked_by:
        import_module(settings.checked_by).check(settings)


def check_scoring(settings: EngineConfig) -> None:
    """Check, by one small request, that a server of these settings gives the probabilities of first
    tokens; one that does not answer now is not waited for.

    Raises:
        SageError: it does not.
    """
    if not settings.checked_by:
        return
    module = import_module(settings.checked_by)
    if hasattr(module, "check_scoring"):
        module.check_scoring(settings)


def examine(settings: EngineConfig, roles: Sequence[str]) -> Check:
    """What ``sage doctor`` says of the engine of these roles."""
    if not settings.checked_by:
        return Check(", ".join(roles), True, settings.where)
    found: Check = import_module(settings.checked_by).examine(settings, roles)
    return found
