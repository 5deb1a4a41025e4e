"""A sample of `make models`; the whole of it is in the integration tests."""

import json

import pytest

from benchmarks import models
from benchmarks.models import Result, check, table
from benchmarks.small_models import MODELS
from sage_core.engines import self_test
from sage_core.training import self_test as training_self_test
from sage_core.training.self_test import Passes

SAMPLE = ("qwen3", "gemma3_text", "phi", "falcon", "deepseek_v3", "lfm2", "granitemoehybrid",
          "recurrent_gemma")  # fmt: skip


@pytest.mark.parametrize("model_type", SAMPLE)
def test_a_model_is_right(model_type: str) -> None:
    found = check(model_type)
    assert (found.refused, found.wrong) == ("", ())
    assert found.ids == (6, 6)
    assert found.scores < 1e-3
    assert found.gradient < 1e-4


def test_what_the_self_test_prevents_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = self_test.Generation("shared")
    monkeypatch.setattr("sage_core.engines.loaded_model.generation", lambda *_: shared)
    (reply, scores) = check("diffllama").wrong[:2]
    assert reply.endswith("of 6 replies")
    assert scores.startswith("scores by")


def test_packing_that_leaks_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_self_test, "passes_of", lambda *_: Passes(True))
    wrong = " ".join(check("doge").wrong)
    assert "gradient by" in wrong
    assert "pairs by" in wrong


def test_the_page_is_the_last_table() -> None:
    rows = json.loads(models.ROWS.read_text("utf-8"))
    assert sorted(rows) == sorted(MODELS)
    assert len(rows) >= 60
    results = [Result(**rows[name]) for name in sorted(rows)]
    assert not any(each.wrong for each in results)
    assert models.TABLE.read_text("utf-8") == table(results)


def test_the_table_says_what_is_wrong_and_what_is_refused() -> None:
    results = [
        Result(
            "a",
            generation="shared prompts",
            training="packed",
            lora="wq in 1 of 2 layers",
            export="yes",
        ),
        Result("b", refused="the weights | cannot be loaded"),
        Result("c", wrong=("gradient by 0.3",)),
    ]
    text = table(results)
    assert "3 architectures: 1 right, 1 refused with a reason, 1 wrong." in text
    assert "1 share prompts and 1 train packed" in text
    assert "| b | refused: the weights \\| cannot be loaded |" in text
    assert "| c | WRONG: gradient by 0.3 |" in text
