"""From a preset or a file to the configuration."""

import re
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

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
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        node[last] = text


def _explain(detail: Any) -> str:
    """One pydantic error as: the key, the value, what is wrong, and the valid choices."""
    path = [part for part in detail["loc"] if isinstance(part, str) and "[" not in part]
    key = ".".join(path)
    if detail["type"] == "extra_forbidden":
        section = _section_at(path[:-1])
        choices = ", ".join(section.model_fields) if section else "none"
        return f"{key}: no such key; the keys there are: {choices}"
    if detail["type"] == UNSHOWN:
        return f"{key}: {detail['msg']}"
    return f"{key or 'configuration'} = {_short(detail['input'])}: {detail['msg']}"


def _section_at(path: Iterable[str]) -> type[BaseModel] | None:
    section: type[BaseModel] = PipelineConfig
    for part in path:
        field = section.model_fields.get(part)
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return None
        section = annotation
    return section


def _short(value: object, limit: int = 80) -> str:
    text = re.sub(r"[^\s'\"]+@", "[...]@", repr(value))  # a user name and password of an address
    return text if len(text) <= limit else f"{text[:limit]}..."
