"""The key of a step: what its artefact depends on, and nothing else."""

from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sage_core.config.section import RUNTIME
from sage_core.corpus import lexicon
from sage_core.named import Named
from sage_core.steps.base import Model, Step
from sage_core.steps.code import code_hash, reach
from sage_core.storage import ArtifactRef, digest

_VERSION = 2  # 1 was the hash of modules that were named by hand


def key(step: Step) -> str:
    """SHA-256 of the step's name, its inputs, what these name, and the code that it can reach."""
    reached = reach(*roots(step))
    return digest(
        {
            # The machine's lexicon is data that no field names.
            **({"lexicon": lexicon.installed().sha256} if lexicon.__name__ in reached else {}),
            "version": _VERSION,
            "step": step.name,
            "inputs": identity(step),
            "named": identity(step.named),
            "code": code_of(step),
        }
    )


def path_of(step: Step) -> str:
    """Where the step's artefact is in the store."""
    return f"{step.name}/{key(step)[:20]}"


def code_of(step: Step) -> str:
    """The hash of the code that the step can reach, that of its engines and of what its settings
    name included."""
    return code_hash(*roots(step))


def roots(step: Step) -> tuple[str, ...]:
    """The modules that all of the step's code is reached from."""
    named = {each.module for each in named_by(step)}
    elsewhere = {module for engine in step.engines for module in engine.modules_elsewhere}
    opening = {"sage_core.engines.opening"} if step.engines else set()
    return (type(step).__module__, *sorted(named | elsewhere | opening))


def named_by(step: Step) -> tuple[Named, ...]:
    """All that the step's settings name, its engines included."""
    return (*step.named, *(engine.named for engine in step.engines))


def identity(value: Any) -> Any:
    """``value`` as JSON values, without runtime settings at any depth.

    Raises:
        TypeError: it holds what is not an input of a step.
    """
    if isinstance(value, BaseModel):
        return {
            name: identity(getattr(value, name))
            for name, field in type(value).model_fields.items()
            if RUNTIME not in field.metadata
        }
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: identity(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(name): identity(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [identity(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a step cannot have an input of type {type(value).__name__}")


def parents(step: Step) -> dict[str, list[dict[str, Any]]]:
    """The artefacts that the step is made from, by field; the bases of its models as ``base``."""
    found: dict[str, dict[ArtifactRef, None]] = {}
    for field in fields(step):
        for ref in references(getattr(step, field.name)):
            found.setdefault(field.name, {})[ref] = None
    bases = {model.base: None for model in models(step)}
    for name in {field.name for field in fields(step) if models(getattr(step, field.name))}:
        found[name] = {ref: None for ref in found[name] if ref not in bases}
    if bases:
        found["base"] = bases
    return {name: [asdict(ref) for ref in refs] for name, refs in found.items() if refs}


def settings_hash(step: Step) -> str:
    """The hash of the step's inputs other than artefacts."""
    return digest(
        {
            field.name: identity(value)
            for field in fields(step)
            if not references(value := getattr(step, field.name))
        }
    )


def references(value: Any) -> list[ArtifactRef]:
    """All artefact references in nested inputs."""
    if isinstance(value, ArtifactRef):
        return [value]
    return [ref for item in _items(value) for ref in references(item)]


def models(value: Any) -> list[Model]:
    """All models in nested inputs."""
    return (
        [value] if isinstance(value, Model) else [m for item in _items(value) for m in models(item)]
    )


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list | tuple):
        yield from value
    elif is_dataclass(value) and not isinstance(value, type | ArtifactRef):
        yield from (getattr(value, field.name) for field in fields(value))
