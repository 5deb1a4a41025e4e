"""Engines of the user's own, named ``package.module:name``."""

from collections.abc import Sequence

from sage_core.checks import Check
from sage_core.config.engine import OwnEngineConfig
from sage_core.errors import ConfigError
from sage_core.named import load


def check(settings: OwnEngineConfig) -> None:
    """Check that what the settings name can be called.

    Raises:
        ConfigError: it cannot, or cannot be imported.
    """
    if not callable(load(settings.kind)):
        raise ConfigError(
            f"the engine '{settings.kind}' cannot be called; name a class, or a function that "
            "returns an engine"
        )


def examine(settings: OwnEngineConfig, roles: Sequence[str]) -> Check:
    """Whether it is there."""
    what = f"{', '.join(roles)}: {settings.kind}"
    try:
        check(settings)
    except ConfigError as error:
        return Check(what, False, str(error), "name an engine that can be imported here")
    return Check(what, True, "an engine of your own")
