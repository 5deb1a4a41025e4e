"""A package whose names are loaded when they are first used, so that importing it costs nothing.

They are listed once, in the package's stub ``__init__.pyi``, as ``from module import X as X``. Type
checkers read the stub as it is; here it says where a name is. A stub is in the key of no step, so a
new public name has nothing made again.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from sys import modules
from typing import Any


def lazily(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package; ``__all__`` are the names in its stub."""

    def load(name: str) -> Any:
        known = public_names(package)
        if name == "__all__":
            return sorted(known)
        if name not in known:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        module, there = known[name]
        return getattr(import_module(module), there)

    return load, lambda: sorted({*vars(modules[package]), *public_names(package)})


@cache
def public_names(package: str) -> dict[str, tuple[str, str]]:
    """Each name in the stub, with its module and what it is called there."""
    import ast

    stub = Path(str(modules[package].__file__)).with_suffix(".pyi")
    return {
        each.asname: (str(node.module), each.name)
        for node in ast.parse(stub.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for each in node.names
        if each.asname
    }
