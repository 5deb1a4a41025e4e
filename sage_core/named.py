"""Things that are named ``package.module:name``, so that a user's own need no change here."""

from importlib import import_module
from typing import Any

from sage_core.errors import ConfigError

_FORM = "package.module:name"


def load(path: str) -> Any:
    """What ``path`` names, in the form ``package.module:name``.

    Raises:
        ConfigError: not of that form, or it cannot be imported.
    """
    module, separator, name = path.partition(":")
    if not (separator and module and name):
        raise ConfigError(f"'{path}' is not of the form {_FORM}")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"'{path}' cannot be imported ({error}); give {_FORM}, with the module's folder on "
            "PYTHONPATH"
        ) from error


def path_of(thing: type) -> str:
    """The path under which another process imports a class.

    Raises:
        ConfigError: it is in a script or inside a function, where none can.
    """
    if thing.__module__ == "__main__" or "." in thing.__qualname__:
        raise ConfigError(
            f"{thing.__qualname__} cannot be imported by another process; move it to the top "
            "level of a module, or set training.launcher=null"
        )
    return f"{thing.__module__}:{thing.__qualname__}"
