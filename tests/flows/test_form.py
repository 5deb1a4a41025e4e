"""The forms of deployments: what they ask for, refuse and may reach."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from prefect.utilities.callables import parameter_schema

from flows import described, form
from flows.deployed import retrain_form, run_form
from sage_core.config.loading import PRESETS, load_config
from sage_core.errors import ConfigError


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
        "preset", "name", "data", "reader", "situations", "base_model", "seed", "overrides",
    ]  # fmt: skip
    assert list(schema(retrain_form)) == ["name", "data", "approval", "overrides"]
    for flow in (run_form, retrain_form):
        for name, field in schema(flow).items():
            assert field["description"], name
            assert field.get("default") is not None or name == "seed"


def test_the_form_offers_all_presets_and_refuses_other_sections() -> None:
    assert get_args(form.Preset) == PRESETS
    assert schema(run_form)["preset"]["enum"] == list(PRESETS)
    pattern = schema(run_form)["overrides"]["items"]["pattern"]
    assert re.search(pattern, "search.candidates=8")
    assert re.search(pattern, "seed=1")
    for wrong in ("serch.candidates=8", "search.candidates", "search .candidates=8", ""):
        assert not re.search(pattern, wrong), wrong


def test_empty_fields_are_the_presets() -> None:
    for preset in PRESETS:
        assert form.configuration(preset) == load_config(preset)


def test_what_is_filled_in_counts(roots: tuple[Path, Path]) -> None:
    data, _ = roots
    config = form.configuration(
        "demo", name="ours", data="mine.jsonl", reader="messages", seed=0,
        overrides=["search.candidates=3"],
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
        form.configuration("demo", overrides=[place.format(path)])
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
        form.configuration("demo", overrides=[override])


def test_names_on_a_hub_and_files_of_the_home_are_left_alone(roots: tuple[Path, Path]) -> None:
    _, home = roots
    (home / "made.jsonl").write_text("")
    config = form.configuration(
        "demo", base_model="org/name", situations=str(home / "made.jsonl"),
        overrides=["corpus.reader=hf", "corpus.input=org/dialogues"],
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
