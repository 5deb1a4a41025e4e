"""The self-test of training: packed only where that changes neither logits nor gradients."""

from typing import Any

import pytest
import torch

from benchmarks.small_models import chatml_tokenizer, small_model
from sage_core.config.training import TrainingConfig
from sage_core.engines import comparing
from sage_core.training import packed, self_test
from sage_core.training.method import NOT_SCORED
from sage_core.training.self_test import Passes, passes_of

TOKENIZER = chatml_tokenizer()
SETTINGS = TrainingConfig()
RUN = packed.Run


@pytest.fixture(autouse=True)
def _tested_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "_known", {})


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("llama", None),
        ("mistral", None),  # sliding windows in all layers
        ("gemma3_text", None),  # and in some
        ("phi", None),  # a bias on the output layer
        ("deepseek_v3", None),
        ("falcon", "takes no other attention"),
        ("doge", "change the result"),
        ("granite", "change the result"),  # scaled logits
        ("llama4_text", "layers of chunked_attention"),
        ("lfm2", "layers of conv"),
    ],
)
def test_each_architecture_is_packed_if_that_changes_nothing(
    model_type: str, reason: str | None
) -> None:
    model = small_model(model_type, len(TOKENIZER))
    found = passes_of(model, TOKENIZER, SETTINGS)
    assert found.packed is (reason is None), found
    assert (reason or "") in found.reason


def test_packing_can_be_switched_off() -> None:
    off = TrainingConfig(packing=False)
    assert passes_of(None, TOKENIZER, off) == Passes(False, "training.packing=false")


@pytest.mark.parametrize("fault", ["window", "context", "leak"])
def test_a_fault_of_packing_is_found(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    """A window that is ignored, a pair's second reply without its prompt, and a sequence that sees
    the one before it."""
    mask = packed.Run.mask

    def windowless(self: packed.Run, window: int | None, device: Any) -> Any:
        return mask(self, None, device)

    if fault == "window":
        monkeypatch.setattr(packed.Run, "mask", windowless)
    elif fault == "context":
        monkeypatch.setattr(packed, "Run", lambda start, stop, context: RUN(start, stop))
    else:
        monkeypatch.setattr(packed, "Run", seeing)
    found = passes_of(small_model("mistral", len(TOKENIZER)), TOKENIZER, SETTINGS)
    assert "packed sequences change the result" in found.reason


def seeing(start: int, stop: int, context: tuple[int, int] | None) -> packed.Run:
    return RUN(start, stop, context or ((0, 1) if start else None))


def test_windows_are_as_before_afterwards() -> None:
    model = small_model("gemma3_text", len(TOKENIZER))  # one layer of each kind
    passes_of(model, TOKENIZER, SETTINGS)
    assert model.config.sliding_window == 16
    assert [layer.self_attn.sliding_window for layer in model.model.layers] == [16, None]


def test_layers_whose_window_cannot_be_narrowed_are_padded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(self_test, "_window", lambda holder: None)
    model = small_model("gemma3_text", len(TOKENIZER))
    assert "cannot see" in passes_of(model, TOKENIZER, SETTINGS).reason


@pytest.mark.parametrize("way", ["packed", "padded"])
def test_a_bias_on_the_output_layer_counts(way: str) -> None:
    """Against the model's own loss, where a bias of 0.3 a token changes it by far more."""
    model = small_model("phi", len(TOKENIZER))
    ids = torch.tensor(comparing.test_tokens(TOKENIZER, 12)).reshape(2, 6)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    labels = ids.clone()
    labels[:, :2] = NOT_SCORED
    expected = model(**batch, labels=labels).loss.item()
    with torch.no_grad():
        bias = model.lm_head.bias.clone()
        model.lm_head.bias.zero_()
        without = float(model(**batch, labels=labels).loss)
        model.lm_head.bias.copy_(bias)
    assert abs(without - expected) > 0.01
    packed.score_here(model, packed=way == "packed")
    output = model(**batch, labels=labels, fused_lm_head=True, with_logits=True)
    assert -output.log_probs.sum().item() / 8 == pytest.approx(expected, abs=1e-5)
    assert output.logits.shape == (8, len(TOKENIZER))
