"""From a preset or a file to the configuration."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Tag, ValidationError

from sage_core.config.engine import DEFAULT_KIND, left_behind
from sage_core.config.pipeline import PipelineConfig
from sage_core.config.section import UNSHOWN
from sage_core.errors import ConfigError

PRESETS = ("tiny", "demo", "paper")


def load_config(source: str, overrides: Iterable[str] = ()) -> PipelineConfig:
    """Read a preset (by name) or a YAML file, apply ``a.b=value`` overrides and validate.

    Raises:
        ConfigError: unknown preset or file, broken YAML, or any wrong key or value; all wrong
            keys and values are named in one message.
    """
    tree = _read_yaml(source)
    for override in overrides:
        apply_override(tree, override)
    return validate_config(tree)


def validate_config(tree: Mapping[str, Any]) -> PipelineConfig:
    """Validate a parameter tree; see :func:`load_config`."""
    try:
        return PipelineConfig.model_validate(tree)
    except ValidationError as error:
        problems = "\n".join(f"  - {_explain(detail)}" for detail in error.errors())
        raise ConfigError(f"the configuration has wrong values:\n{problems}") from None


def _read_yaml(source: str) -> dict[str, Any]:
    if source in PRESETS:
        text = resources.files("sage_core.presets").joinpath(f"{source}.yaml").read_text("utf-8")
    elif Path(source).is_file():
        text = Path(source).read_text("utf-8")
    else:
        raise ConfigError(
            f"'{source}' is neither a preset nor a file; choose one of {', '.join(PRESETS)}, or "
            "give the path of a YAML file"
        )
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"'{source}' is not YAML: {error}; fix that line") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"'{source}' holds no mapping of sections at its top; see demo.yaml")
    return {key: _unshared(value) for key, value in tree.items()}


def _unshared(node: Any) -> Any:
    """A copy in which each YAML alias is a value of its own, so that an override of one role's
    engine changes that role only."""
    if isinstance(node, dict):
        return {key: _unshared(value) for key, value in node.items()}
    return [_unshared(value) for value in node] if isinstance(node, list) else node


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one key of a parameter tree from ``a.b=value``; the value is read as YAML.

    Raises:
        ConfigError: not of that form, or the key goes through a value.
    """
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"'{override}' is not KEY=VALUE, such as search.candidates=8")
    *parents, last = key.strip().split(".")
    node = tree
    for parent in parents:
        node = node.setdefault(parent, {})
        if not isinstance(node, dict):
            raise ConfigError(f"'{key}' goes through '{parent}', which holds a value, no section")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if last == "kind":  # of an engine: what was set of the former kind goes
        for name in left_behind(node.get(last, DEFAULT_KIND), value):
            node.pop(name, None)
    node[last] = value


def _explain(detail: Any) -> str:
    """One pydantic error as: the key, the value, what is wrong, and the valid choices."""
    place = _place(detail["loc"])
    if detail["type"] == "extra_forbidden":
        kind = f" of kind {place.kind}" if place.kind else ""
        choices = ", ".join(place.section.model_fields) if place.section else "none"
        return f"{place.key}: no such key{kind}; the keys there are: {choices}"
    if detail["type"] == "missing":
        field = place.section.model_fields.get(place.name) if place.section else None
        about = f": {field.description}" if field and field.description else ""
        return f"{place.key} is missing{about}"
    if detail["type"] == UNSHOWN:
        return f"{place.key}: {detail['msg']}"
    return f"{place.key or 'configuration'} = {_short(detail['input'])}: {detail['msg']}"


@dataclass(frozen=True)
class _Place:
    """Where an error is: the key, and the section that it is in. ``kind`` is the section's, where
    there are sections of several kinds."""

    key: str
    name: str
    section: type[BaseModel] | None
    kind: str


def _place(loc: Iterable[str | int]) -> _Place:
    keys: list[str] = []
    section: type[BaseModel] | None = None
    here: Any = PipelineConfig
    kind, kind_here = "", ""
    for part in loc:
        if part in (kinds := _kinds(here)):
            here, kind_here = kinds[part], str(part)
        elif isinstance(part, int):
            here = next(iter(get_args(here)), None)
        elif "[" not in part:  # else a validator, or a choice among plain types
            keys.append(part)
            section, kind, kind_here = _section_in(here), kind_here, ""
            field = section.model_fields.get(part) if section else None
            here = field.annotation if field else None
    return _Place(".".join(keys), keys[-1] if keys else "", section, kind)


def _kinds(annotation: Any) -> dict[Any, type[BaseModel]]:
    """The sections of a union by their kinds."""
    return {
        note.tag: each.__origin__
        for each in get_args(annotation)
        for note in getattr(each, "__metadata__", ())
        if isinstance(note, Tag)
    }


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, if it is one."""
    found = [each for each in (annotation, *get_args(annotation)) if isinstance(each, type)]
    return next((each for each in found if issubclass(each, BaseModel)), None)


def _short(value: object, limit: int = 80) -> str:
    text = re.sub(r"[^\s'\"]+@", "[...]@", repr(value))  # a user name and password of an address
    return text if len(text) <= limit else f"{text[:limit]}..."
