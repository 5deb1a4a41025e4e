"""What servers take: a table of those that are known, and what is tried where one refuses."""

from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from typing import Any

from sage_core.config.servers import OpenAIConfig

_NEARLY_GREEDY = 0.01


@dataclass(frozen=True)
class Parameters:
    """What one server is sent; the fields are those of
    :class:`sage_core.config.parameters.ParametersConfig`."""

    answer_budget: str = "max_completion_tokens"
    temperature: str = "as_asked"
    seed: bool = True
    n: bool = True
    top_logprobs: int = 20
    system_role: bool = True
    structured_output: str = "json_schema"

    def budget(self, tokens: int) -> dict[str, Any]:
        """The limit of an answer, as arguments."""
        return {self.answer_budget: tokens}

    def warmth(self, temperature: float) -> dict[str, Any]:
        """The temperature, as arguments."""
        if self.temperature == "left_out":
            return {}
        least = _NEARLY_GREEDY if self.temperature == "above_zero" else 0
        return {"temperature": max(temperature, least)}


KNOWN: dict[str, Parameters] = {
    "openai": Parameters(),
    "vllm": Parameters(),
    "llama.cpp": Parameters(answer_budget="max_tokens"),
    "ollama": Parameters(answer_budget="max_tokens", n=False),
    "lm-studio": Parameters(answer_budget="max_tokens", n=False),
    "tgi": Parameters(answer_budget="max_tokens", n=False, top_logprobs=5),
    "sglang": Parameters(answer_budget="max_tokens"),
    "anthropic": Parameters(
        answer_budget="max_tokens", seed=False, n=False, structured_output="prompt"
    ),
    "mistral": Parameters(answer_budget="max_tokens", seed=False),
    "deepseek": Parameters(
        answer_budget="max_tokens", seed=False, n=False, structured_output="json_object"
    ),
}
"""``server`` of the settings -> what is sent first, by the server's own documentation."""

WAYS: dict[str, tuple[Any, ...]] = {
    "top_logprobs": (20, 8, 5),
    "seed": (True, False),
    "temperature": ("as_asked", "above_zero", "left_out"),
    "n": (True, False),
    "structured_output": ("json_schema", "json_object", "prompt"),
    "answer_budget": ("max_completion_tokens", "max_tokens", "max_completion_tokens"),
    "system_role": (True, False),
}
"""Parameter -> what is tried, one after the other. Where a server does not say what it refuses,
parameters are changed in this order: what changes answers least comes first."""


def first_tried(config: OpenAIConfig) -> Parameters:
    """What is sent before anything was refused: the settings, else the table."""
    return replace(KNOWN[config.server], **_settings(config))


def settled(config: OpenAIConfig) -> frozenset[str]:
    """The parameters that the settings name, which stay as they are."""
    return frozenset(_settings(config))


def next_way(
    parameters: Parameters, name: str, refused: Collection[tuple[str, Any]]
) -> Parameters | None:
    """With the next way to send one parameter that was not ``refused``; None: there is none."""
    ways, now = WAYS[name], getattr(parameters, name)
    if name == "top_logprobs":
        after = tuple(way for way in ways if way < now)
    else:
        after = ways[ways.index(now) + 1 :]
    left = [way for way in after if (name, way) not in refused]
    return replace(parameters, **{name: left[0]}) if left else None


def differences(before: Parameters, after: Parameters) -> dict[str, str]:
    """Parameter -> what is sent instead of what, for people."""
    return {
        field.name: f"{_written(new)} instead of {_written(old)}"
        for field in fields(Parameters)
        if (old := getattr(before, field.name)) != (new := getattr(after, field.name))
    }


def table() -> str:
    """:data:`KNOWN` in Markdown, for the documentation."""
    names = [field.name for field in fields(Parameters)]
    rows = [["server", *names], ["---"] * (len(names) + 1)]
    rows += [
        [f"`{server}`", *(_written(getattr(known, name)) for name in names)]
        for server, known in KNOWN.items()
    ]
    rows.append(["if refused", *(_tried_after(name) for name in names)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _tried_after(name: str) -> str:
    if name == "answer_budget":
        return "the other name"
    return ", ".join(_written(way) for way in WAYS[name][1:])


def _settings(config: OpenAIConfig) -> dict[str, Any]:
    return config.parameters.model_dump(exclude_none=True, exclude={"extra_body"})


def _written(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
