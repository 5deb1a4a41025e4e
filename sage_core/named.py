"""What settings name: registries of built-in names, and anything of a user's own.

A setting takes a short name, or ``package.module:name`` for code outside this project, which then
needs no change here. A :class:`Registry` is a table of strings, so the configuration can check
names without importing what they stand for, and a step reaches only what its settings name.
"""

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_core.errors import ConfigError

if TYPE_CHECKING:  # the command line's help loads this module, and has no need of pydantic
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

FORM = "package.module:name"
_NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_FORM = re.compile(rf"{_NAME}:{_NAME}")


@dataclass(frozen=True)
class Named:
    """Something that a setting names.

    Attributes:
        name: as the setting has it.
        path: where it is, ``package.module:name``.
    """

    name: str
    path: str

    @property
    def module(self) -> str:
        return self.path.partition(":")[0]

    @property
    def own(self) -> bool:
        """Whether it is the user's own, not one of a registry."""
        return self.name == self.path


@dataclass(frozen=True)
class Registry:
    """The names that one setting takes.

    As the annotation of a configuration field it checks the value, a name or several: it must be in
    the table or have the form ``package.module:name``. Nothing is imported for that.

    Attributes:
        setting: the setting's key, for messages.
        what: what a name stands for, such as "reader".
        table: name -> ``package.module:name``, or the names that it stands for.
        traits: name -> what the configuration has to know of it, since it loads nothing.
        kept: a regular expression of names that are kept outside code; whoever can reach that place
            looks them up.
        kept_form: how these are written, for messages.
    """

    setting: str
    what: str
    table: Mapping[str, str | tuple[str, ...]]
    traits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    kept: str = ""
    kept_form: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names in the table, in its order."""
        return tuple(self.table)

    @property
    def choices(self) -> str:
        """What the setting takes, in words."""
        kept = f", or {self.kept_form}" if self.kept_form else ""
        return f"{', '.join(self.names)}, or your own as {FORM}{kept}"

    def resolve(self, *names: str) -> tuple[Named, ...]:
        """What each name stands for, in order; those that are kept outside code are left out.

        Raises:
            ConfigError: a name is not in the table and does not have the form of one's own.
        """
        found: list[Named] = []
        for name in names:
            entry = self.table.get(name)
            if isinstance(entry, tuple):
                found += self.resolve(*entry)
            elif entry is not None or _FORM.fullmatch(name):
                found.append(Named(name, entry or name))
            elif self.keeps(name):
                continue
            else:
                raise self.error(name, "does not exist")
        return tuple(found)

    def keeps(self, name: str) -> bool:
        """Whether ``name`` is kept outside code."""
        return bool(self.kept) and re.fullmatch(self.kept, name) is not None

    def has(self, name: str, trait: str) -> bool:
        """Whether the table gives ``name`` this trait; one's own has none."""
        return trait in self.traits.get(name, ())

    def load(self, name: str) -> Any:
        """The object that a single name stands for.

        Raises:
            ConfigError: as :meth:`resolve`, or it cannot be imported.
        """
        (found,) = self.resolve(name)
        try:
            return load(found.path)
        except ConfigError as error:
            problem = (
                f"cannot be imported ({error.__cause__}; its folder has to be on PYTHONPATH, or "
                "the working directory)"
            )
            raise self.error(name, problem) from error

    def error(self, name: str, problem: str) -> ConfigError:
        """The error of a name that cannot be used."""
        return ConfigError(
            f"{self.setting}: the {self.what} '{name}' {problem}; choose {self.choices}"
        )

    def __get_pydantic_core_schema__(
        self, source: Any, handler: "GetCoreSchemaHandler"
    ) -> "CoreSchema":
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: "CoreSchema", handler: "GetJsonSchemaHandler"
    ) -> dict[str, Any]:
        return {**handler(schema), "examples": list(self.names)}

    def _checked(self, value: Any) -> Any:
        try:
            self.resolve(*([value] if isinstance(value, str) else value))
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value


def load(path: str) -> Any:
    """What ``path`` names, in the form ``package.module:name``.

    Raises:
        ConfigError: not of that form, or it cannot be imported.
    """
    if not _FORM.fullmatch(path):
        raise ConfigError(f"'{path}' is not of the form {FORM}")
    search_here()
    module, _, name = path.partition(":")
    try:
        return reduce(getattr, name.split("."), import_module(module))
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"'{path}' cannot be imported ({error}); give {FORM}, with the module's folder on "
            "PYTHONPATH or as the working directory"
        ) from error


def search_here() -> None:
    """Look for modules in the working directory too, which a console script does not."""
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


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
