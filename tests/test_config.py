"""Configuration: presets load, and wrong input is answered with the key and the choices."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sage_core.config.loading import PRESETS, apply_override, load_config, validate_config
from sage_core.config.pipeline import PipelineConfig
from sage_core.errors import ConfigError

FOLDER = Path(__file__).parent.parent / "sage_core" / "presets"


@pytest.mark.parametrize("preset", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_presets_load_and_are_offered(preset: str) -> None:
    assert preset in PRESETS
    config = load_config(preset)
    assert config.name.startswith("sage")
    # A preset round trips through its own dump, so what a run records can start it again.
    assert validate_config(config.model_dump(mode="json")) == config


def test_defaults_are_the_papers_sampling() -> None:
    sampling = PipelineConfig().search.selfplay.sampling
    assert (sampling.top_k, sampling.temperature, sampling.repetition_penalty) == (100, 1.1, 1.1)
    corpus = PipelineConfig().corpus
    assert (corpus.min_turns, corpus.min_mean_words, corpus.min_sentiment) == (5, 15.0, 0.4)


def test_an_unknown_key_is_answered_with_the_keys_there_are() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("tiny", ["corpus.min_turn=3"])
    message = str(caught.value)
    assert "corpus.min_turn: no such key" in message
    assert "min_turns, min_mean_words" in message


@pytest.mark.parametrize(
    ("override", "choices"),
    [
        ("nothing=1", "annotation, lora"),
        ("search.selfplay.samplin.top_k=1", "sampling, state_grammar"),
        ("search.selfplay.sampling.topk=1", "top_k, repetition_penalty"),
    ],
)
def test_choices_are_those_of_the_section_that_lacks_the_key(override: str, choices: str) -> None:
    with pytest.raises(ConfigError, match="no such key") as caught:
        load_config("tiny", [override])
    assert choices in str(caught.value)


def test_all_wrong_values_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("tiny", ["seed=-1", "lora.rank=0", "model.dtype=int4", "dpo.beta=.nan", "x=1"])
    lines = [line for line in str(caught.value).splitlines() if line.startswith("  - ")]
    assert sorted(line.split()[1] for line in lines) == [
        "dpo.beta", "lora.rank", "model.dtype", "seed", "x:",
    ]  # fmt: skip
    (dtype,) = [line for line in lines if "model.dtype" in line]
    assert "'int4'" in dtype
    assert "'bfloat16' or 'float32'" in dtype


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        ("search.candidates=8", lambda c: c.search.candidates, 8),
        ("sft.learning_rate=1.0e-3", lambda c: c.sft.learning_rate, 0.001),
        ("sft.learning_rate=1e-3", lambda c: c.sft.learning_rate, 0.001),
        ("search.selfplay.state_grammar=false", lambda c: c.search.selfplay.state_grammar, False),
        ("corpus.rules=[turns, words]", lambda c: c.corpus.rules, ("turns", "words")),
        ("corpus.input=null", lambda c: c.corpus.input, None),
        ("corpus.input=a/b.jsonl", lambda c: c.corpus.input, Path("a/b.jsonl")),
        ("name=a=b", lambda c: c.name, "a=b"),
        ("lora={rank: 2}", lambda c: c.lora.rank, 2),
        ("evaluation.judges=[{name: a}, {name: b}]", lambda c: len(c.evaluation.judges), 2),
    ],
)
def test_overrides_are_read_as_yaml(
    override: str, read: Callable[[PipelineConfig], Any], expected: Any
) -> None:
    value = read(load_config("tiny", [override]))
    assert value == expected
    assert type(value) is type(expected)


def test_later_overrides_win() -> None:
    assert load_config("tiny", ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "is not KEY=VALUE"),
        ("=3", "is not KEY=VALUE"),
        ("seed.deeper=3", "goes through 'seed', which holds a value"),
    ],
)
def test_an_override_of_the_wrong_form(override: str, message: str) -> None:
    tree: dict[str, Any] = {"seed": 0}
    with pytest.raises(ConfigError, match=message):
        apply_override(tree, override)
    assert tree == {"seed": 0}


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match="tiny, demo, paper"):
        load_config("huge")


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "just words"])
def test_a_file_that_is_no_tree_of_sections(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        load_config(str(path))


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 7\nsearch: {candidates: 3}\n", encoding="utf-8")
    config = load_config(str(path), ["search.candidates=4"])
    assert (config.seed, config.search.candidates) == (7, 4)
    path.write_text("", encoding="utf-8")
    assert load_config(str(path)) == PipelineConfig()


def test_configuration_is_frozen() -> None:
    config = load_config("tiny")
    with pytest.raises(ValidationError, match="frozen"):
        config.search.candidates = 5  # type: ignore[misc]


def test_rules_between_fields() -> None:
    with pytest.raises(ConfigError, match=r"engine\.model is missing: Name of the model on"):
        load_config("tiny", ["annotation.engine.kind=openai"])
    with pytest.raises(ConfigError, match="two judges have the same name"):
        load_config("tiny", ["evaluation.judges=[{name: a}, {name: a}]"])
