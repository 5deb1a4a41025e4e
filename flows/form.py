"""The forms of deployments in Prefect's UI: few fields first, and what they may reach.

Whoever fills in a form need not be the owner of the machine that runs it. So the paths of a form,
those in its overrides included, lie in the data folder or in the SAGE home.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sage_core.config.budget import BudgetConfig
from sage_core.config.loading import load_config, validate_config
from sage_core.config.pipeline import PipelineConfig
from sage_core.errors import ConfigError
from sage_core.evaluation.benchmarks import BENCHMARKS
from tasks.home import sage_home

DATA_VARIABLE = "SAGE_DATA"
_LONGEST_PATH = 1024
Preset = Literal["tiny", "demo", "paper"]
Task = Annotated[str, BENCHMARKS, Field(json_schema_extra={"enum": [*BENCHMARKS.names]})]


class Judge(BaseModel):
    """A judge: the base model itself, or a model on a server."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="What reports call it.")
    model: str = Field("", description="Its name on the server; empty = the base model, m0.")
    base_url: str = Field(
        "",
        description="The server's address; empty = OPENAI_BASE_URL of the worker, else OpenAI's.",
    )
    api_key_env: str = Field(
        "OPENAI_API_KEY",
        pattern=r"^[A-Z_][A-Z0-9_]*$",
        description="The worker's environment variable that holds the server's key.",
    )

    def settings(self) -> dict[str, Any]:
        """As in ``evaluation.judges``."""
        server = {"kind": "openai", **self.model_dump(exclude={"name"})}
        return {"name": self.name, **({"engine": server} if self.model else {})}


def data_root() -> Path:
    """The folder that relative paths in a form are in: ``SAGE_DATA``, by default ``data`` in the
    SAGE home."""
    return Path(os.environ.get(DATA_VARIABLE) or sage_home() / "data").resolve()


def configuration(
    preset: Preset,
    advanced: Iterable[str] = (),
    *,
    name: str = "",
    data: str = "",
    reader: str = "",
    base_model: str = "",
    judges: Iterable[Judge] = (),
    budget: BudgetConfig = BudgetConfig(),  # noqa: B008 - frozen
) -> PipelineConfig:
    """What is filled in, as a configuration; empty fields are the preset's.

    Args:
        advanced: other settings, each as ``a.b=value``; they count over the fields.

    Raises:
        ConfigError: a wrong value, or a path outside the data folder and the SAGE home.
    """
    filled = changes(
        {
            "name": name,
            "corpus.input": data,
            "corpus.reader": reader,
            "model.base": base_model,
            "evaluation.judges": [judge.settings() for judge in judges],
        }
    )
    return confined(load_config(preset, [*filled, *limits(budget), *advanced]))


def changes(fields: Mapping[str, Any]) -> list[str]:
    """The fields that are filled in, each as ``a.b=value``."""
    return [f"{key}={json.dumps(value)}" for key, value in fields.items() if value]


def limits(budget: BudgetConfig) -> list[str]:
    """The limits that are filled in, each as ``budget.limit=value``."""
    return changes({f"budget.{name}": value for name, value in budget})


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
