"""One of each step, with inputs made up from the types of its fields."""

import importlib
import pkgutil
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

import sage_core.steps
from sage_core.config.engine import EngineConfig, EngineSection
from sage_core.config.evaluation import ClassifierConfig, JudgeConfig
from sage_core.steps.base import Model, Step
from sage_core.steps.judged import Judge
from sage_core.steps.speaking import Speaking
from sage_core.storage import ArtifactRef


def steps() -> dict[str, Step]:
    """Name -> a step of each kind."""
    for found in pkgutil.iter_modules(sage_core.steps.__path__):
        importlib.import_module(f"sage_core.steps.{found.name}")
    kinds = [kind for kind in Step.__subclasses__() if kind.__module__.startswith("sage_core.")]
    return {kind.name: made(kind) for kind in kinds}


def made(kind: type[Any]) -> Any:
    """A step, or a record of its inputs."""
    hints = get_type_hints(kind)
    return kind(**{field.name: value(hints[field.name], field.name) for field in fields(kind)})


def value(hint: Any, name: str) -> Any:
    """Something of a type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return value(next(each for each in arguments if each is not NoneType), name)
    if origin is Literal:
        return arguments[0]
    if origin is tuple:
        return (value(arguments[0], name),)
    if origin is dict:
        return {"m1": value(arguments[1], name)}
    if hint is ArtifactRef:
        return ArtifactRef(f"{name}/1", "0" * 64, 1)
    if hint is Model:
        return Model("m1", value(ArtifactRef, "base"), value(ArtifactRef, name))
    if hint is JudgeConfig:
        return JudgeConfig(name="m0")
    if hint is ClassifierConfig:
        return ClassifierConfig(name="toxicity", path=Path("model"), label="toxic")
    if is_dataclass(hint):
        return made(hint)
    if issubclass(hint, BaseModel):
        return hint()
    if name == "task":  # of a registry
        return "piqa"
    return {str: name, int: 1, float: 0.5, bool: True, Path: Path(name)}[hint]


def with_engines(value: Any, engine: EngineConfig) -> Any:
    """A section of the configuration in which every role has the same engine."""
    if isinstance(value, EngineSection):
        return engine
    if isinstance(value, Judge | Speaking):
        given = {field.name: getattr(value, field.name) for field in fields(value)}
        return replace(value, **{name: with_engines(each, engine) for name, each in given.items()})
    if not isinstance(value, BaseModel):
        return value
    found = {name: with_engines(getattr(value, name), engine) for name in type(value).model_fields}
    return value.model_copy(update=found)
