"""The forms of deployments: what they ask for, refuse and may reach."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import ValidationError, validate

from flows import described, form
from flows.advanced import Advanced, overrides
from flows.deployed import (
    benchmark_form,
    evaluate_form,
    prepare_data_form,
    refine_form,
    retrain_form,
    run_form,
)  # fmt: skip
from sage_core.config.budget import BudgetConfig
from sage_core.config.loading import PRESETS, load_config
from sage_core.config.pipeline import PipelineConfig
from sage_core.errors import ConfigError
from sage_core.evaluation.benchmarks import BENCHMARKS


@pytest.fixture(autouse=True)
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The data folder, with a file, and the home."""
    data, home = tmp_path / "data", tmp_path / "home"
    for folder in (data, home):
        folder.mkdir()
    (data / "mine.jsonl").write_text("")
    monkeypatch.setenv("SAGE_DATA", str(data))
    monkeypatch.setenv("SAGE_HOME", str(home))
    return data, home


def schema(flow: Any) -> dict[str, Any]:
    found = parameter_schema(flow.fn).model_dump()
    properties: dict[str, Any] = found["properties"]
    return properties


def test_forms_are_short_and_every_field_is_described() -> None:
    assert list(schema(run_form)) == [
        "preset", "name", "data", "reader", "base_model", "judges", "budget", "advanced",
    ]  # fmt: skip
    assert list(schema(retrain_form)) == [
        "name", "data", "reader", "approval", "budget", "advanced",
    ]  # fmt: skip
    assert list(schema(prepare_data_form)) == ["name", "data", "reader"]
    assert list(schema(refine_form)) == [
        "model", "name", "data", "reader", "budget", "advanced",
    ]  # fmt: skip
    assert list(schema(evaluate_form)) == [
        "first", "second", "name", "other", "judges", "advanced",
    ]  # fmt: skip
    assert list(schema(benchmark_form)) == [
        "model", "against", "name", "tasks", "limit", "advanced",
    ]  # fmt: skip
    forms = (run_form, retrain_form, prepare_data_form, refine_form, evaluate_form, benchmark_form)
    for flow in forms:
        for name, field in schema(flow).items():
            assert field["description"], name
            assert field["default"] is not None, name


def test_the_form_offers_all_presets() -> None:
    assert get_args(form.Preset) == PRESETS
    assert schema(run_form)["preset"]["enum"] == list(PRESETS)


def test_the_form_offers_all_benchmarks() -> None:
    assert schema(benchmark_form)["tasks"]["items"]["enum"] == list(BENCHMARKS.table)
    with pytest.raises(ValidationError, match="'hella' is not one of"):
        validate(
            {"tasks": ["hella"]},
            parameter_schema(benchmark_form.fn).model_dump(),
            raise_on_error=True,
        )
    limit = schema(benchmark_form)["limit"]
    assert (limit["type"], limit["minimum"]) == ("integer", 0)


def test_advanced_has_every_other_setting() -> None:
    """Each optional, with the configuration's own description and bounds."""
    asked_first = {"name", "budget"}
    whole = PipelineConfig.model_json_schema()["$defs"]
    form_schema = Advanced.model_json_schema()
    assert set(form_schema["properties"]) == set(PipelineConfig.model_fields) - asked_first
    candidates = form_schema["$defs"]["SearchConfig"]["properties"]["candidates"]
    assert (candidates["type"], candidates["minimum"]) == ("integer", 1)
    described = form_schema["$defs"]["RetrainConfig"]["properties"]
    for name, field in whole["RetrainConfig"]["properties"].items():
        assert described[name]["description"] == field["description"]
    for section in form_schema["$defs"].values():
        if section.get("title") in ("SearchConfig", "SFTConfig", "EvaluationConfig"):
            assert "required" not in section
            assert section["additionalProperties"] is False
            assert not [each for each in section["properties"].values() if "default" in each]


@pytest.fixture(scope="module")
def asked() -> dict[str, Any]:
    """The form of a run as the server keeps it, which takes what is right."""
    found: dict[str, Any] = parameter_schema(run_form.fn).model_dump()
    validate({"preset": "tiny", "advanced": {"seed": 1}}, found, raise_on_error=True)
    return found


@pytest.mark.parametrize(
    ("filled_in", "wrong"),
    [
        ({"preset": "large"}, "preset"),
        ({"budget": {"usd": -1}}, "usd"),
        ({"budget": {"dollars": 1}}, "dollars"),
        ({"judges": [{"name": "two words"}]}, "two words"),
        ({"judges": [{"model": "gpt"}]}, "name"),
        ({"judges": [{"name": "x", "api_key_env": "sk-123"}]}, "sk-123"),
        ({"advanced": {"serch": {"candidates": 8}}}, "serch"),
        ({"advanced": {"search": {"candidates": 0}}}, "0"),
        ({"advanced": {"search": {"candidates": "many"}}}, "many"),
        ({"advanced": {"evaluation": {"pairs": "some"}}}, "some"),
        ({"advanced": {"retrain": {"error_rate": 1.5}}}, "1.5"),
        ({"advanced": {"evaluation": {"judges": [{"engine": {"kind": "openai"}}]}}}, "judges"),
    ],
)
def test_a_wrong_value_is_refused_before_a_run_is_made(
    filled_in: dict[str, Any], wrong: str, asked: dict[str, Any]
) -> None:
    """By Prefect's server, with the check that it makes when a run is asked for."""
    with pytest.raises(ValidationError, match=re.escape(wrong)):
        validate(filled_in, asked, raise_on_error=True)


def test_what_advanced_holds_becomes_settings(roots: tuple[Path, Path]) -> None:
    data, _ = roots
    filled_in = {
        "seed": 3,
        "corpus": {"input": "mine.jsonl", "reader": "messages"},
        "search": {"candidates": 5, "selfplay": {"sampling": {"top_k": 7}}},
        "evaluation": {"judges": [{"name": "a", "engine": {"kind": "openai", "model": "m"}}]},
    }
    given = list(overrides(Advanced.model_validate(filled_in)))
    config = form.configuration("demo", given, data="other.jsonl")
    assert config.seed == 3
    assert config.corpus.input == data / "mine.jsonl"  # advanced counts over the field
    assert (config.search.candidates, config.search.selfplay.sampling.top_k) == (5, 7)
    assert config.search.selfplay.max_turns == load_config("demo").search.selfplay.max_turns
    (judge,) = config.evaluation.judges
    assert (judge.name, judge.engine.kind) == ("a", "openai")
    assert list(overrides(Advanced())) == []


def test_judges_are_the_base_model_or_on_a_server() -> None:
    own, served = form.Judge(name="own"), form.Judge(name="big", model="m", api_key_env="KEY_B")
    judges = form.configuration("demo", judges=[own, served]).evaluation.judges
    assert [judge.name for judge in judges] == ["own", "big"]
    assert judges[0].engine.traits.is_m0
    assert judges[1].engine.model_dump()["api_key_env"] == "KEY_B"


def test_limits_that_are_filled_in_count() -> None:
    config = form.configuration("demo", budget=BudgetConfig(usd=5))
    assert config.budget == BudgetConfig(usd=5)
    assert form.limits(BudgetConfig()) == []  # so that the champion's own limits stay


def test_empty_fields_are_the_presets() -> None:
    for preset in PRESETS:
        assert form.configuration(preset) == load_config(preset)


def test_what_is_filled_in_counts(roots: tuple[Path, Path]) -> None:
    data, _ = roots
    config = form.configuration(
        "demo", ["search.candidates=3"], name="ours", data="mine.jsonl", reader="messages",
    )  # fmt: skip
    assert (config.name, config.corpus.input, config.corpus.reader, config.search.candidates) == (
        "ours", data / "mine.jsonl", "messages", 3,
    )  # fmt: skip


@pytest.mark.parametrize("path", ["/etc", "../home2", "mine.jsonl/../../x", "link"])
@pytest.mark.parametrize(
    "place",
    [
        "corpus.input={}",
        "situations.path={}",
        "corpus.blocked_phrases={}",
        "search.selector={{relevance: false, reward_model: {}}}",
        "training.launcher={{processes: 1, accelerate_config: {}}}",
        "mixture.corpora=[{{reader: messages, input: {}}}]",
        "annotation.engine={{kind: vllm, vllm_python: {}}}",
    ],
)
def test_no_path_leads_out(path: str, place: str, roots: tuple[Path, Path]) -> None:
    (roots[0] / "link").symlink_to("/etc")
    with pytest.raises(ConfigError, match="paths of a form") as error:
        form.configuration("demo", [place.format(path)])
    assert place.partition("=")[0] in str(error.value)


@pytest.mark.parametrize(
    "override",
    [
        "model.base=/etc/ssl",
        "annotation.engine={kind: vllm, vllm_arguments: [--chat-template=/etc/passwd]}",
    ],
)
def test_texts_that_name_files_are_paths_too(override: str) -> None:
    with pytest.raises(ConfigError, match="paths of a form"):
        form.configuration("demo", [override])


def test_names_on_a_hub_and_files_of_the_home_are_left_alone(roots: tuple[Path, Path]) -> None:
    _, home = roots
    (home / "made.jsonl").write_text("")
    config = form.configuration(
        "demo",
        [f"situations.path={home / 'made.jsonl'}", "corpus.reader=hf",
         "corpus.input=org/dialogues"],
        base_model="org/name",
    )  # fmt: skip
    assert config.model.base == "org/name"
    assert config.corpus.input == Path("org/dialogues")
    assert config.situations.path == home / "made.jsonl"


def test_what_the_owner_has_run_is_trusted() -> None:
    owners = load_config("demo", ["situations.path=/etc/hosts"])
    assert form.confined(owners, owners) == owners
    with pytest.raises(ConfigError, match="/etc/passwd"):
        form.confined(load_config("demo", ["situations.path=/etc/passwd"]), owners)


def test_the_tags_of_a_run_are_what_it_is() -> None:
    config = load_config("demo", ["search.candidates=8", "seed=3", "refine.rounds=1", "name=x"])
    assert {"preset:demo", "seed:3", "search.candidates=8", "refine.rounds=1"} <= {
        *described.tags(config)
    }
    # What cannot change a result does not tell runs apart.
    assert described.tags(load_config("demo", ["model.batch_size=2"])) == described.tags(
        load_config("demo")
    )
