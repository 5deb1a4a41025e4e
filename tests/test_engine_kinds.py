"""The kinds of engines: one section each, and code that asks for traits instead of kinds."""

import json
import re
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
from prefect.utilities.schema_tools.validation import validate
from pydantic import BaseModel, TypeAdapter, ValidationError

from flows.commands import doctor_checks
from sage_core import preflight
from sage_core.config.engine import (
    OFFERED,
    SECTIONS,
    EngineConfig,
    EngineSection,
    OpenAIConfig,
    OwnEngineConfig,
    SamplingConfig,
    Traits,
    TransformersConfig,
    VllmConfig,
)
from sage_core.config.loading import PRESETS, load_config, validate_config
from sage_core.config.model import ModelConfig
from sage_core.config.pipeline import PipelineConfig
from sage_core.config.search import SelectorConfig
from sage_core.engines import opening
from sage_core.engines.base import Request
from sage_core.errors import ConfigError
from sage_core.named import FORM, load
from sage_core.planning.costs import StagePlan
from sage_core.planning.stages import plan
from sage_core.schema import Message
from sage_core.steps import code
from sage_core.steps.base import Context, Model, Step
from sage_core.steps.code import code_hash
from sage_core.steps.key import key
from sage_core.storage import MANIFEST, ArtifactRef, read_json
from tasks import making
from tasks.home import store

GPT = "evaluation.judges=[{name: gpt, engine: {kind: openai, model: gpt-4o-mini}}]"
read: TypeAdapter[EngineSection] = TypeAdapter(EngineConfig)
BUILT_IN = {
    "transformers": TransformersConfig(),
    "openai": OpenAIConfig(model="m"),
    "vllm": VllmConfig(),
}


def test_each_kind_has_its_own_settings() -> None:
    assert [*BUILT_IN, FORM] == list(SECTIONS)
    fields = {kind: set(section.model_fields) for kind, section in SECTIONS.items()}
    assert fields["transformers"] == {"kind"}
    assert fields["vllm"] & fields["openai"] == {
        "kind", "max_concurrency", "timeout_s", "max_retries"
    }  # fmt: skip
    assert fields[FORM] == {"kind", "options"}
    for section in SECTIONS.values():
        assert not [f for f in section.model_fields.values() if "only)" in (f.description or "")]


@pytest.mark.parametrize("kind", BUILT_IN)
def test_settings_are_read_by_their_kind_and_come_back(kind: str) -> None:
    engine = BUILT_IN[kind]
    assert read.validate_python(engine.model_dump(mode="json")) == engine
    assert read.validate_python(engine) is engine
    with pytest.raises(ValidationError, match="frozen"):
        engine.kind = "other"


def test_without_a_kind_it_is_a_model_in_this_process() -> None:
    assert read.validate_python({}) == TransformersConfig()
    assert PipelineConfig.model_validate({"annotation": {"engine": {}}}) == PipelineConfig()


def test_overrides_as_the_documentation_writes_them() -> None:
    (judge,) = load_config("tiny", [GPT]).evaluation.judges
    assert judge.engine == OpenAIConfig(model="gpt-4o-mini")
    both = ["annotation.engine.kind=openai", "annotation.engine.model=m"]
    for overrides in (both, both[::-1]):
        config = load_config("tiny", ["annotation.method=write", *overrides])
        assert config.annotation.engine == OpenAIConfig(model="m")


def test_another_kind_leaves_the_settings_of_the_former_behind() -> None:
    selector = "search.selector.engine"
    config = load_config("paper", [f"{selector}.kind=openai", f"{selector}.model=m"])
    # 128 are the preset's; its vllm_arguments are nothing that this kind has.
    assert config.search.selector.engine == OpenAIConfig(model="m", max_concurrency=128)
    with pytest.raises(ConfigError, match=f"{selector}.modle: no such key of kind openai"):
        load_config("paper", [f"{selector}.modle=x", f"{selector}.kind=openai"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "annotation.engine.vllm_python=x",
            "annotation.engine.vllm_python: no such key of kind transformers; the keys there are: "
            "kind",
        ),
        (
            GPT.replace("model", "vllm_python: x, model"),
            "evaluation.judges.engine.vllm_python: no such key of kind openai; the keys there are: "
            "kind, max_concurrency, timeout_s, max_retries, server, model, base_url, "
            "parameters, api_key_env, max_spend_usd, usd_per_million_prompt_tokens, "
            "usd_per_million_completion_tokens",
        ),
        (
            "search.selfplay.user_engine={kind: vllm, model: m}",
            "search.selfplay.user_engine.model: no such key of kind vllm",
        ),
        (
            "search.selector.engine={kind: openai}",
            "search.selector.engine.model is missing: Name of the model on the server.",
        ),
        (
            "search.selector.engine={kind: vllm, max_retries: -1}",
            "search.selector.engine.max_retries = -1: Input should be greater than",
        ),
        (
            "annotation.engine.kind=opnai",
            "annotation.engine: the kind 'opnai' does not exist; choose transformers, openai, "
            f"vllm, or your own as {FORM}",
        ),
        ("annotation.engine.kind=3", "annotation.engine: the kind 3 does not exist"),
        ("annotation.engine=openai", "annotation.engine: an engine is a section"),
        ("annotation.engine.kind=a:b:c", "annotation.engine.kind = 'a:b:c'"),
    ],
)
def test_what_is_wrong_is_named_by_its_key_and_kind(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("tiny", ["annotation.method=write", override])
    assert re.search(rf"^  - {re.escape(message)}", str(caught.value), re.MULTILINE)


@pytest.mark.parametrize(
    ("engine", "traits"),
    [
        (TransformersConfig(), Traits(True, True, True, True, True)),
        (VllmConfig(), Traits(True, True, True, True, False)),
        (OpenAIConfig(model="m"), Traits(False, False, False, False, False)),
        (
            OpenAIConfig(model="m", server="llama.cpp"),
            Traits(False, False, False, False, False),
        ),
        (
            OpenAIConfig(model="m", server="vllm", base_url="http://localhost/v1"),
            Traits(True, True, False, False, False),
        ),
    ],
)
def test_what_engines_can_do(engine: EngineSection, traits: Traits) -> None:
    assert engine.traits == traits
    settings = {"relevance": True, "engine": engine}
    if traits.scores_replies:
        assert SelectorConfig.model_validate(settings).engine == engine
    else:
        with pytest.raises(ValidationError, match="'openai' with server = 'vllm', or your own"):
            SelectorConfig.model_validate(settings)


def test_what_the_sections_name_is_there() -> None:
    for engine in BUILT_IN.values():
        assert callable(load(engine.named.path))
        assert not engine.named.own
    for section in SECTIONS.values():
        if section.checked_by:
            module = import_module(section.checked_by)
            assert callable(module.check)
            assert callable(module.examine)
        for name in section.shared:
            assert name in section.model_fields


def test_prices_are_known_where_they_are_set_or_the_server_is_ones_own() -> None:
    assert OpenAIConfig(model="m").prices is None
    priced = OpenAIConfig(model="m", usd_per_million_completion_tokens=2)
    assert priced.prices == (0, 2)
    assert OpenAIConfig(model="m", base_url="http://localhost/v1").prices == (0, 0)


# --- the form of Prefect --------------------------------------------------------------------------


def schema() -> dict[str, Any]:
    config = PipelineConfig.model_json_schema()
    definitions = config.pop("$defs")
    parameters = {"config": {**config, "position": 0}}
    return {"type": "object", "properties": parameters, "$defs": definitions}


def unions(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [each for item in node for each in unions(item)]
    if not isinstance(node, dict):
        return []
    here = [node] if "discriminator" in node else []
    return here + [each for item in node.values() for each in unions(item)]


def test_the_form_shows_every_engine_as_a_choice_of_kinds() -> None:
    """Prefect's form knows anyOf, not oneOf; it takes the choice that shares most keys with the
    value, and the first of several."""
    found = unions(schema())
    assert len(found) == len({"annotation", "agent", "user", "selector", "judge", "benchmarks"})
    sections = ["TransformersConfig", "OpenAIConfig", "VllmConfig", "OwnEngineConfig"]
    for union in found:
        assert [each["$ref"] for each in union["anyOf"]] == [f"#/$defs/{s}" for s in sections]
        assert union["discriminator"] == {
            "propertyName": "kind",
            "mapping": {
                "transformers": "#/$defs/TransformersConfig",
                "openai": "#/$defs/OpenAIConfig",
                "vllm": "#/$defs/VllmConfig",
            },
        }
    assert "oneOf" not in json.dumps(schema())


def test_every_default_and_preset_is_a_value_of_the_form() -> None:
    values: dict[str, BaseModel] = {each: load_config(each) for each in PRESETS}
    values |= {"defaults": PipelineConfig(), "judge": load_config("tiny", [GPT])}
    for name, value in values.items():
        dumped = value.model_dump(mode="json")
        assert validate({"config": dumped}, schema()) == [], name
        assert validate_config(dumped) == value
    wrong = load_config("tiny").model_dump(mode="json")
    wrong["annotation"]["engine"] = {"kind": "transformers", "model": "m"}
    assert validate({"config": wrong}, schema())


def test_every_section_is_in_the_union_once() -> None:
    (union, *_) = get_args(EngineConfig)
    assert [each.__origin__ for each in get_args(union)] == list(SECTIONS.values())
    assert {engine.kind for engine in OFFERED.values()} == set(SECTIONS) - {FORM}


# --- an engine of one's own -----------------------------------------------------------------------

ECHO = """
from sage_core.config.engine import Traits
from sage_core.engines.base import Capabilities, Completion, Usage, require

class Echo:
    traits = Traits(loads_adapters=True, runs_here=False, in_process=False)
    capabilities = Capabilities(top_k=True, repetition_penalty=True, grammar=True,
                                penalty_outside_states=True)
    name = "echo"

    def __init__(self, settings, base, model, adapter, home):
        self.times, self.usage = settings.options["times"], Usage()

    def generate(self, requests):
        texts = [request.messages[-1].content * self.times for request in requests]
        self.usage += Usage(len(requests), 0, sum(map(len, texts)))
        return [[Completion(text, "stop", len(text))] for text in texts]

def plain(settings, base, model, adapter, home):
    return Echo(settings, base, model, adapter, home)

number = 3
"""


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The module of an engine, in the working directory."""
    package = tmp_path / "my_engines"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "echo.py").write_text(ECHO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [each for each in sys.modules if each.partition(".")[0] == "my_engines"]:
        monkeypatch.delitem(sys.modules, name)
    return package / "echo.py"


def own(name: str = "Echo", **options: Any) -> OwnEngineConfig:
    return OwnEngineConfig(kind=f"my_engines.echo:{name}", options={"times": 2, **options})


@pytest.mark.usefixtures("echo")
def test_an_engine_of_ones_own_is_named_and_opened(tmp_path: Path) -> None:
    kind = "search.selector.engine.kind=my_engines.echo:Echo"
    config = load_config("tiny", [kind, "search.selector.engine.options.times=3"])
    settings = config.search.selector.engine
    assert settings == own(times=3)
    engine = opening.open_engine(settings, tmp_path, ModelConfig(), None, tmp_path)
    ((reply,),) = engine.generate([request("ab")])
    assert reply.text == "ababab"


def request(text: str) -> Request:
    return Request("r", (Message("user", text),), SamplingConfig())


@pytest.mark.usefixtures("echo")
def test_what_an_engine_of_ones_own_can_do_is_declared_on_it() -> None:
    assert own().traits == Traits(loads_adapters=True, runs_here=False, in_process=False)
    assert own("plain").traits == Traits()  # which loads nothing of this run's
    players = "search.selfplay.agent_engine.kind=my_engines.echo"
    load_config("tiny", [f"{players}:Echo"])
    with pytest.raises(ConfigError, match="or your own that declare loads_adapters can load"):
        load_config("tiny", [f"{players}:plain"])


@pytest.mark.parametrize(
    ("name", "message"),
    [("Missing", "has no attribute 'Missing'"), ("number", "cannot be called")],
)
@pytest.mark.usefixtures("echo")
def test_an_engine_that_cannot_be_used_is_refused_before_a_run(name: str, message: str) -> None:
    kind = f"evaluation.judges=[{{name: j, engine: {{kind: 'my_engines.echo:{name}'}}}}]"
    config = load_config("tiny", [kind])
    with pytest.raises(ConfigError, match=message):
        preflight.check(config)
    (check,) = (each for each in doctor_checks.engine_checks(config) if "my_engines" in each.what)
    assert not check.ok
    assert check.what == f"judge j: my_engines.echo:{name}"
    assert message in check.found


@dataclass(frozen=True, kw_only=True)
class Ask(Step):
    name = "ask"
    settings: EngineConfig
    asked: Model

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        return (self.settings,)

    def run(self, folder: Path, context: Context) -> None:
        engine = context.engine(self.settings, self.asked, ModelConfig())
        ((reply,),) = engine.generate([request("ab")])
        (folder / "reply").write_text(reply.text)


def test_an_engine_of_ones_own_is_part_of_the_key(
    echo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))

    def ask(engine: OwnEngineConfig) -> Step:
        return Ask(settings=engine, asked=Model("m0", ArtifactRef("base", "", 0)))

    step = ask(own())
    ref = making.make(step)
    assert (store().folder(ref) / "reply").read_text() == "abab"
    own_code = read_json(store().folder(ref) / MANIFEST)["own"]
    assert own_code == {"my_engines.echo:Echo": code_hash("my_engines.echo")}
    before = key(step)
    assert before != key(ask(own(times=3)))
    assert before != key(ask(own("plain")))
    echo.write_text(f"# a comment\n{ECHO}")
    code._module.cache_clear()
    assert key(step) == before
    echo.write_text(ECHO.replace("self.times for", "2 for"))
    code._module.cache_clear()
    assert key(step) != before


@pytest.mark.usefixtures("echo")
def test_an_engine_of_ones_own_is_planned_by_where_it_runs() -> None:
    def stages(name: str) -> dict[str, StagePlan]:
        kind = f"annotation.engine.kind=my_engines.echo:{name}"
        config = load_config("tiny", ["annotation.method=write", kind])
        return {stage.stage: stage for stage in plan(config)}

    elsewhere, here = (stages(name)["annotate-shard"] for name in ("Echo", "plain"))
    assert (elsewhere.gpu_hours, elsewhere.api_usd) == (0, None)
    assert here.gpu_hours > 0
    assert here.api_usd == 0


def test_roles_on_one_server_are_examined_once(tmp_path: Path) -> None:
    kind = f"{{kind: vllm, vllm_python: {tmp_path}/none}}"
    overrides = [f"{role}.engine={kind}" for role in ("annotation", "search.selector")]
    checks = list(doctor_checks.engine_checks(load_config("tiny", overrides)))
    assert [check.what for check in checks if "annotator" in check.what] == [
        "a vLLM server for: annotator, selector"
    ]
    assert len(checks) == len(load_config("tiny").engines()) - 1
    assert {check.ok for check in checks} == {True, False}
