"""The form of a run in Prefect's UI: few fields, and what they may reach.

Whoever fills in a form need not be the owner of the machine that runs it. So the paths of a form,
those in its overrides included, lie in the data folder or in the SAGE home.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from sage_core.config.loading import load_config, validate_config
from sage_core.config.pipeline import PipelineConfig
from sage_core.errors import ConfigError
from tasks.home import sage_home

DATA_VARIABLE = "SAGE_DATA"
_LONGEST_PATH = 1024
Preset = Literal["tiny", "demo", "paper"]
_SECTIONS = "|".join(PipelineConfig.model_fields)
Override = Annotated[str, Field(pattern=rf"^({_SECTIONS})(\.[A-Za-z0-9_]+)*=.*$")]
"""``a.b=value``; another section, or no value, is refused before a run is created."""


def data_root() -> Path:
    """The folder that relative paths in a form are in: ``SAGE_DATA``, by default ``data`` in the
    SAGE home."""
    return Path(os.environ.get(DATA_VARIABLE) or sage_home() / "data").resolve()


def configuration(
    preset: Preset,
    *,
    name: str = "",
    data: str = "",
    reader: str = "",
    situations: str = "",
    base_model: str = "",
    seed: int | None = None,
    overrides: list[str] | None = None,
) -> PipelineConfig:
    """What is filled in, as a configuration; empty fields are the preset's.

    Raises:
        ConfigError: a wrong value, or a path outside the data folder and the SAGE home.
    """
    fields = {
        "name": name,
        "corpus.input": data,
        "corpus.reader": reader,
        "situations.path": situations,
        "model.base": base_model,
        "seed": seed,
    }
    filled = [f"{key}={value}" for key, value in fields.items() if value not in ("", None)]
    return confined(load_config(preset, [*filled, *(overrides or ())]))


def confined(config: PipelineConfig, trusted: PipelineConfig | None = None) -> PipelineConfig:
    """The configuration with its relative paths resolved in the data folder, if they are there.

    A path is every value of that type, and every text that names a file or folder. What is not
    there, such as a name on a hub, stays as it is, and so does what ``trusted`` has: settings that
    the owner of the machine has run.

    Raises:
        ConfigError: a path leads out of the data folder and the SAGE home, by links too; all are
            named.
    """
    roots = (data_root(), sage_home())
    outside: list[str] = []
    known = set(_leaves(trusted.model_dump(mode="json"))) if trusted else set()

    def resolved(value: Any, key: str) -> Any:
        if isinstance(value, BaseModel):
            named = {name: getattr(value, name) for name in type(value).model_fields}
            return resolved(named, key)
        if isinstance(value, dict):
            return {
                name: resolved(each, f"{key}.{name}".strip(".")) for name, each in value.items()
            }
        if isinstance(value, list | tuple):
            return [resolved(each, key) for each in value]
        for path in _paths(value, roots[0]) if str(value) not in known else []:
            there = (roots[0] / path).resolve()
            if not any(there.is_relative_to(root) for root in roots):
                outside.append(f"{key} = {value}")
            elif there.exists() and str(path) == str(value):
                return str(there)
        return value

    tree = resolved(config, "")
    if outside:
        raise ConfigError(
            f"{'; '.join(outside)}: paths of a form lie in {roots[0]} or in {roots[1]}; put the "
            f"file there, or set {DATA_VARIABLE} where the worker runs"
        )
    return validate_config(tree)


def _paths(value: Any, root: Path) -> list[Path]:
    """The paths in a value: itself if it is one; of a text, itself or what follows a ``=``, as in a
    server's arguments, if there is such a file or folder."""
    if isinstance(value, Path):
        return [value]
    if not isinstance(value, str) or "/" not in value or len(value) > _LONGEST_PATH:
        return []
    parts = {Path(value), Path(value.rpartition("=")[2])}
    return [path for path in sorted(parts) if path.exists() or (root / path).exists()]


def _leaves(tree: Any) -> Iterator[str]:
    """The texts in nested settings."""
    if isinstance(tree, dict | list):
        for each in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(each)
    elif isinstance(tree, str):
        yield tree
