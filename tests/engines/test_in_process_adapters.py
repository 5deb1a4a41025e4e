"""Adapters of the transformers engine, against base and adapter merged."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process_results import (
    CONFIG,
    SINGLE,
    TEXTS,
    asked,
    greedy,
    log_probability,
    plain_model,
)

from sage_core.engines.base import Constraint
from sage_core.engines.in_process import TransformersEngine
from sage_core.engines.loaded_model import release
from sage_core.errors import EngineError


@pytest.fixture(scope="module")
def engine(tiny_base: Path) -> Iterator[TransformersEngine]:
    yield TransformersEngine(tiny_base, None, CONFIG)
    release()


@pytest.fixture(scope="module")
def reference(tiny_base: Path) -> Any:
    return plain_model(tiny_base)


def make_adapter(folder: Path, base: Path, seed: int) -> Path:
    """A LoRA adapter whose weights are random on both sides, so that it changes the output."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    peft = get_peft_model(
        model,
        LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    peft.save_pretrained(folder)
    return folder


def merged(base: Path, adapter: Path) -> Any:
    """Base and adapter as one plain model."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(model, adapter).merge_and_unload().eval()


@pytest.mark.parametrize("resident_adapters", [4, 1], ids=["side by side", "one at a time"])
def test_adapters_are_switched_and_leave_no_trace(
    tiny_base: Path, tmp_path: Path, chatml_tokenizer: Any, reference: Any, resident_adapters: int
) -> None:
    config = CONFIG.model_copy(update={"resident_adapters": resident_adapters})
    adapters = [make_adapter(tmp_path / f"v1.{n}", tiny_base, n) for n in range(2)]
    requests = [asked(text) for text in TEXTS]
    models = [reference, *(merged(tiny_base, adapter) for adapter in adapters)]
    expected = [
        [[greedy(model, chatml_tokenizer, request)] for request in requests] for model in models
    ]
    assert len({str(texts) for texts in expected}) == 3
    engines = [TransformersEngine(tiny_base, adapter, config) for adapter in (None, *adapters)]
    assert engines[1].name == "transformers:v1.0"
    for which in (0, 1, 0, 2, 1, 2, 0):
        assert engines[which].generate(requests) == expected[which]
    # Scores are the adapter's, too.
    scores = [e.choose([requests[0]], [SINGLE])[0] for e in engines]
    for model, row in zip(models, scores, strict=True):
        assert row == pytest.approx(
            [log_probability(model, chatml_tokenizer, requests[0], o) for o in SINGLE], abs=1e-3
        )
    # And so is the model that another library is lent.
    ids = torch.tensor([chatml_tokenizer.encode(TEXTS[0])])
    for which in (1, 0, 2):
        with engines[which].weights() as (lent, tokenizer), torch.no_grad():
            assert tokenizer.decode(ids[0]) == TEXTS[0]
            torch.testing.assert_close(lent(ids).logits, models[which](ids).logits)


def test_an_error_leaves_no_adapter_on(
    tiny_base: Path, tmp_path: Path, engine: TransformersEngine
) -> None:
    adapter = make_adapter(tmp_path / "a", tiny_base, 3)
    base = TransformersEngine(tiny_base, None, CONFIG)
    before = base.generate([asked("hi")])
    broken = asked("hi", constraint=Constraint("grammar", "root ::= nothing"))
    with pytest.raises(EngineError):
        TransformersEngine(tiny_base, adapter, CONFIG).generate([broken])
    assert base.generate([asked("hi")]) == before
