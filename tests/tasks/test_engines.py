"""What the engines of a stage were asked for."""

from pathlib import Path

import pytest

from sage_core.config.engine import OpenAIConfig, TransformersConfig
from sage_core.config.model import ModelConfig
from sage_core.engines.base import Usage
from sage_core.engines.openai_http import OpenAIEngine
from sage_core.steps.base import Model
from sage_core.storage import ArtifactRef
from tasks.engines import accounting, engine_of
from tasks.making import HomeContext


def made(home: Path, model: str, usd: float = 0.0) -> OpenAIEngine:
    settings = OpenAIConfig(
        model=model,
        base_url="http://127.0.0.1:9/v1",
        usd_per_million_prompt_tokens=usd,
        usd_per_million_completion_tokens=4 * usd,
    )
    engine = engine_of(settings, home, ModelConfig(), None)
    assert isinstance(engine, OpenAIEngine)
    return engine


def test_usage_is_summed_by_engine_and_belongs_to_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    made(tmp_path, "outside").usage = Usage(9, 9, 9, 9.0)
    with accounting() as outer:
        with accounting() as inner:
            made(tmp_path, "a").usage = Usage(1, 20, 3, 0.5)
            made(tmp_path, "b").usage = Usage(2, 5, 5, 1.0)
            made(tmp_path, "a").usage = Usage(1, 10, 4, 0.25)
        made(tmp_path, "c")
    assert inner == {
        "openai:a": {
            "requests": 2, "prompt_tokens": 30, "completion_tokens": 7, "seconds": 0.75,
            "usd": 0.0,
        },
        "openai:b": {
            "requests": 2, "prompt_tokens": 5, "completion_tokens": 5, "seconds": 1.0, "usd": 0.0
        },
    }  # fmt: skip
    assert list(outer) == ["openai:c"]


def test_tokens_are_priced_by_the_settings_of_their_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 USD a million read, 8 written: 500,000 and 250,000 tokens are 1 + 2 USD."""
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    with accounting() as used:
        made(tmp_path, "paid", usd=2.0).usage = Usage(1, 500_000, 250_000, 1.0)
    assert used["openai:paid"]["usd"] == 3.0


def test_a_step_asks_the_engines_that_it_names_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The code of others is not in its key."""
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    named = OpenAIConfig(model="a", base_url="http://127.0.0.1:9/v1")
    context = HomeContext((named,), tmp_path)
    m0 = Model("m0", ArtifactRef("base", "", 0))
    assert context.engine(named, m0, ModelConfig()).name == "openai:a"
    with pytest.raises(ValueError, match="'transformers' is not among the step's engines"):
        context.engine(TransformersConfig(), m0, ModelConfig())
