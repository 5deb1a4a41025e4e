"""What the engines of a stage were asked for."""

from pathlib import Path

import pytest

from sage_core.config import EngineConfig, ModelConfig
from sage_core.engines.base import Usage
from sage_core.engines.openai_http import OpenAIEngine
from tasks.engines import accounting, engine_of


def made(home: Path, model: str) -> OpenAIEngine:
    settings = EngineConfig(kind="openai", model=model, base_url="http://127.0.0.1:9/v1")
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
            "requests": 2, "prompt_tokens": 30, "completion_tokens": 7, "seconds": 0.75
        },
        "openai:b": {"requests": 2, "prompt_tokens": 5, "completion_tokens": 5, "seconds": 1.0},
    }  # fmt: skip
    assert list(outer) == ["openai:c"]
