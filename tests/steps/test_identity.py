"""Which settings a step's key counts: all but those that only say how it runs."""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from every_step import steps, with_engines
from pydantic import BaseModel

from sage_core.config.engine import EngineSection, OpenAIConfig, VllmConfig
from sage_core.config.mixture import InstructionsConfig
from sage_core.config.parameters import ParametersConfig
from sage_core.config.pipeline import PipelineConfig
from sage_core.config.section import RUNTIME
from sage_core.named import Registry
from sage_core.steps.base import Model, Step, writes_states
from sage_core.steps.judged import Judge
from sage_core.steps.key import identity, key, parents, settings_hash
from sage_core.steps.speaking import Speaking
from sage_core.storage import ArtifactRef
from tasks.checkpoints import Checkpoint

STEPS = steps()
OTHERS = {
    "function": "statistics:mean",  # names code
    "task": "gsm8k",  # of a registry
    "instructions": InstructionsConfig(input=Path("x")),
}
RUNTIME_SETTINGS = {
    "PipelineConfig.budget",
    "ModelConfig.batch_size",
    "ModelConfig.prefill_tokens",
    "ModelConfig.resident_adapters",
    "CorpusConfig.sort_memory_mb",
    "OpenAIConfig.api_key_env",
    "OpenAIConfig.max_concurrency",
    "OpenAIConfig.timeout_s",
    "OpenAIConfig.max_retries",
    "OpenAIConfig.max_spend_usd",
    "OpenAIConfig.usd_per_million_prompt_tokens",
    "OpenAIConfig.usd_per_million_completion_tokens",
    "VllmConfig.max_concurrency",
    "VllmConfig.timeout_s",
    "VllmConfig.max_retries",
    "VllmConfig.vllm_start_timeout_s",
    "TrainingConfig.gradient_checkpointing",
    "TrainingConfig.save_steps",
    "GatesConfig.on_collapse",
    "SteeringReportConfig.enabled",
    "BenchmarksConfig.tasks",
    "BenchmarksConfig.input",
    "BenchmarksConfig.files",
    "BenchmarksConfig.if_missing",
    "BenchmarksConfig.batch_size",
    "EmpathyConfig.enabled",
    "EmpathyConfig.path",
    "PipelineConfig.plan",
    "PipelineConfig.ask_again",
    "AnnotationConfig.max_unread_share",
    "SelfPlayConfig.max_unread_share",
    "PipelineConfig.retrain",
}


def other(value: Any, annotation: Any, metadata: list[Any]) -> Any:
    """Another value for a setting; it need not be a valid one, unless it names code."""
    for each in metadata:
        if isinstance(each, Registry):
            return next(name for name in each.names if name != value)
    if get_origin(annotation) is Literal:
        return next((each for each in get_args(annotation) if each != value), f"{value}x")
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, tuple):
        return (*value, "x")
    return "x"


def variants(section: Any) -> Iterator[tuple[str, bool, Any]]:
    """(``Section.field``, whether it is a runtime setting at any level, the section with it
    changed) for every setting at any depth, of a record of sections too."""
    if not isinstance(section, BaseModel):
        for each in fields(section):
            value = getattr(section, each.name)
            if isinstance(value, str):
                yield each.name, False, replace(section, **{each.name: f"{value}x"})
                continue
            for path, runtime, changed in variants(value):
                yield path, runtime, replace(section, **{each.name: changed})
        return
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        runtime = RUNTIME in field.metadata
        if isinstance(value, BaseModel):
            for path, inner, changed in variants(value):
                yield path, runtime or inner, section.model_copy(update={name: changed})
        else:
            changed_value = OTHERS.get(name) or other(value, field.annotation, field.metadata)
            copy = section.model_copy(update={name: changed_value})
            yield f"{type(section).__name__}.{name}", runtime, copy


@pytest.mark.parametrize("name", STEPS)
def test_each_setting_changes_the_key_unless_it_is_a_runtime_one(name: str) -> None:
    step, before = STEPS[name], key(STEPS[name])
    for field in fields(step):
        value = getattr(step, field.name)
        if isinstance(value, BaseModel | Judge | Speaking):
            for path, runtime, changed in variants(value):
                after = key(replace(step, **{field.name: changed}))
                assert (after == before) is runtime, f"{field.name}: {path}"
        elif isinstance(value, str | int | bool):
            changed_value = not value if isinstance(value, bool) else f"{value}1"
            changed_value = OTHERS.get(field.name, changed_value)
            assert key(replace(step, **{field.name: changed_value})) != before, field.name
        else:
            assert key(replace(step, **{field.name: moved(value)})) != before, field.name


ENGINES = (
    OpenAIConfig(model="m", base_url="http://localhost:8000/v1", server="vllm"),
    VllmConfig(),
)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.kind)
@pytest.mark.parametrize("name", [name for name, step in STEPS.items() if step.engines])
def test_the_settings_of_an_engine_change_the_key_unless_they_are_runtime_ones(
    name: str, engine: EngineSection
) -> None:
    """Wherever the engine is in a step, in a judge's settings too."""
    given = {field.name: getattr(STEPS[name], field.name) for field in fields(STEPS[name])}
    found = set()

    def key_with(each: EngineSection) -> str:
        return key(replace(STEPS[name], **{f: with_engines(v, each) for f, v in given.items()}))

    before = key_with(engine)
    for path, runtime, changed in variants(engine):
        assert isinstance(changed, EngineSection)
        assert (key_with(changed) == before) is runtime, path
        found |= {path.partition(".")[2]} if not runtime else set()
    assert (
        found
        == {
            "openai": {
                "kind",
                "server",
                "model",
                "base_url",
                *ParametersConfig.model_fields,
            },
            "vllm": {"kind", "vllm_python", "vllm_arguments"},
        }[engine.kind]
    )


def moved(value: Any) -> Any:
    """The input with another artefact or path in it."""
    if isinstance(value, ArtifactRef):
        return replace(value, sha256="1" * 64)
    if isinstance(value, Model):
        return replace(value, adapter=moved(value.adapter))
    if isinstance(value, tuple):
        return tuple(each if isinstance(each, BaseModel) else moved(each) for each in value) * 2
    if isinstance(value, dict):
        return {f"{name}x": each for name, each in value.items()}
    return Path("elsewhere")


def test_runtime_settings_are_these_and_no_others() -> None:
    """A new mark is a claim that results stay the same: make it here too."""
    sections: dict[str, type[BaseModel]] = {}

    def visit(section: BaseModel) -> None:
        sections[type(section).__name__] = type(section)
        for name in type(section).model_fields:
            if isinstance(value := getattr(section, name), BaseModel):
                visit(value)

    for section in (PipelineConfig(), *ENGINES):
        visit(section)
    found = {
        f"{name}.{field}"
        for name, section in sections.items()
        for field, info in section.model_fields.items()
        if RUNTIME in info.metadata
    }
    assert found == RUNTIME_SETTINGS


def test_an_input_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="set"):
        identity({"roles": {"agent"}})


def test_parents_are_by_field_and_bases_once() -> None:
    base, m1, m2 = (ArtifactRef(name, name, 1) for name in ("base", "m1", "m2"))
    step = replace(STEPS["search-shard"], agent=Model("m2", base, m2), user=Model("m1", base, m1))
    found = {name: [each["path"] for each in refs] for name, refs in parents(step).items()}
    assert found == {
        "base": ["base"], "agent": ["m2"], "user": ["m1"], "situations": ["situations/1"],
    }  # fmt: skip
    first = replace(step, agent=Model("m0", base))
    assert "agent" not in parents(first)
    assert settings_hash(first) == settings_hash(step)  # artefacts are no settings


@pytest.mark.parametrize(("name", "states"), [("m0", False), ("raw", False), ("m1", True)])
def test_who_speaks_state_action_chains_is_known_in_one_place(name: str, states: bool) -> None:
    base = ArtifactRef("base", "base", 1)
    found = (writes_states(name), Model(name, base).states, Checkpoint(name, None, Path()).states)
    assert found == (states, states, states)


def test_every_step_says_how_it_runs() -> None:
    """Steps that ask engines are worth another try, and those alone; names are paths."""
    for name, step in STEPS.items():
        assert isinstance(step, Step)
        assert name.replace("-", "").isalpha()
        assert (step.retries > 0) is bool(step.engines), name
