"""Which settings differ: between runs, and of one run from the preset that it began as."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage_core.config.loading import PRESETS, load_config
from sage_core.config.pipeline import PipelineConfig
from sage_core.config.section import RUNTIME

_NAMED = 3  # settings that a run's name has room for
_VALUE_LENGTH = 32  # characters of a value in a run's name


@dataclass(frozen=True)
class Setting:
    """A setting whose values differ: its key, and its value in each run as text ('' where a run
    has no such setting). ``runtime``: it cannot change a result."""

    key: str
    values: tuple[str, ...]
    runtime: bool


def differences(configs: Sequence[PipelineConfig]) -> list[Setting]:
    """The settings that are not the same in all of ``configs``, in their order."""
    found = [_flat(config.model_dump(mode="json")) for config in configs]
    runtime = {key for config in configs for key in _runtime(config)}
    keys = dict.fromkeys(key for each in found for key in each)
    values = {key: tuple(_text(each[key]) if key in each else "" for each in found) for key in keys}
    return [
        Setting(key, each, any(_within(key, section) for section in runtime))
        for key, each in values.items()
        if len(set(each)) > 1
    ]


def run_name(config: PipelineConfig) -> str:
    """What a run is called: the preset that it differs least from, and the settings that differ.
    Those that cannot change a result are left out, and so is the experiment's name."""
    nearest, changed = from_preset(config)
    more = len(changed) - _NAMED
    told = [*changed[:_NAMED], *([f"{more} more"] if more > 0 else [])]
    return f"{nearest}: {', '.join(told)}" if told else nearest


def from_preset(config: PipelineConfig) -> tuple[str, list[str]]:
    """The preset that a run differs least from, and the settings that differ, as ``key=value``."""
    presets = {name: _changed(load_config(name), config) for name in PRESETS}
    nearest = min(presets, key=lambda name: len(presets[name]))
    return nearest, presets[nearest]


def _changed(preset: PipelineConfig, config: PipelineConfig) -> list[str]:
    return [
        f"{each.key}={_short(each.values[1] or 'none')}"
        for each in differences([preset, config])
        if not each.runtime and each.key != "name"
    ]


def _flat(tree: Any, key: str = "") -> dict[str, Any]:
    """Nested settings by dotted key; those of a list of sections by ``key[0]``."""
    found: dict[str, Any] = {}
    for name, value in _items(tree, key):
        inner = _flat(value, name)
        found |= inner or {name: value}
    return found


def _items(tree: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        yield from ((f"{key}.{name}" if key else name, value) for name, value in tree.items())
    elif isinstance(tree, list) and any(isinstance(each, Mapping) for each in tree):
        yield from ((f"{key}[{number}]", value) for number, value in enumerate(tree))


def _runtime(section: Any, key: str = "") -> Iterator[str]:
    """The keys of the settings that are marked as runtime settings, at any depth."""
    if isinstance(section, list | tuple):
        for number, each in enumerate(section):
            yield from _runtime(each, f"{key}[{number}]")
    for name, field in getattr(type(section), "model_fields", {}).items():
        inner = f"{key}.{name}" if key else name
        if RUNTIME in field.metadata:
            yield inner
        else:
            yield from _runtime(getattr(section, name), inner)


def _within(key: str, section: str) -> bool:
    return key == section or key.startswith((f"{section}.", f"{section}["))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _short(text: str) -> str:
    return text if len(text) <= _VALUE_LENGTH else f"{text[: _VALUE_LENGTH - 1]}…"
