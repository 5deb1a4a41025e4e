"""The training methods by name.

A method of one's own is registered here, or named by its class as ``package.module:name``, in which
case nothing here changes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sage_core.errors import ConfigError
from sage_core.named import load
from sage_core.training import launch
from sage_core.training.dpo import DPO
from sage_core.training.job import Job, Progress, no_progress
from sage_core.training.method import Method
from sage_core.training.sft import SFT

_METHODS: dict[str, type[Method[Any, Any]]] = {}


def register(method: type[Method[Any, Any]]) -> type[Method[Any, Any]]:
    """Make a method known under its name; a decorator.

    Raises:
        ConfigError: another one has this name.
    """
    if _METHODS.setdefault(method.name, method) is not method:
        raise ConfigError(
            f"there is a training method '{method.name}' already; the names there are: "
            f"{', '.join(names())}"
        )
    return method


def names() -> tuple[str, ...]:
    """The registered names."""
    return tuple(sorted(_METHODS))


def method(name: str) -> Method[Any, Any]:
    """A registered method, or the class that ``package.module:name`` names.

    Raises:
        ConfigError: there is none.
    """
    if name in _METHODS:
        return _METHODS[name]()
    choices = f"choose one of {', '.join(names())}, or name a class as package.module:name"
    if ":" not in name:
        raise ConfigError(f"there is no training method '{name}'; {choices}")
    found = load(name)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise ConfigError(f"'{name}' is not a subclass of {Method.__name__}; {choices}")
    return found()


def train(
    name: str,
    folder: Path,
    job: Job,
    examples: Sequence[Any],
    settings: Any,
    work: Path | None = None,
    on_step: Progress = no_progress,
) -> None:
    """Train by the method ``name``; see :func:`sage_core.training.launch.train`.

    Raises:
        ConfigError: there is no such method, or ``settings`` are not its own.
    """
    chosen = method(name)
    if not isinstance(settings, chosen.settings):
        raise ConfigError(
            f"the training method '{name}' takes settings of type {chosen.settings.__name__}, not "
            f"{type(settings).__name__}"
        )
    launch.train(chosen, folder, job, examples, settings, work, on_step)


register(SFT)
register(DPO)
