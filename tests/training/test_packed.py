"""Passes without padding give what padded ones give."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_examples import DIALOGUES, PAIRS

from sage_core.config.training import DPOConfig, SFTConfig
from sage_core.training import adapters
from sage_core.training.dpo import DPO
from sage_core.training.job import Job
from sage_core.training.packed import Layout, Run
from sage_core.training.sft import SFT


def test_the_layout_of_pairs_holds_each_prompt_once() -> None:
    """Two pairs: prompts of 2 and 1 tokens; chosen of 1 and 2, rejected of 2 and 1 more."""
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]])
    layout = Layout.of(mask, torch.tensor([2, 1]))
    assert layout.runs == [Run(0, 3), Run(3, 5, (0, 2)), Run(5, 8), Run(8, 9, (5, 6))]
    assert layout.source.tolist() == [0, 1, 2, 10, 11, 4, 5, 6, 13]
    assert layout.positions.tolist() == [0, 1, 2, 2, 3, 0, 1, 2, 1]
    assert layout.index.tolist() == [[0, 1, 2, 0], [5, 6, 7, 0], [0, 1, 3, 4], [5, 8, 0, 0]]


def test_masks_are_causal_and_keep_to_the_window() -> None:
    run = Run(10, 12, (4, 6))
    plain = run.mask(None, torch.device("cpu"))
    assert plain is not None
    assert plain.int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    narrow = run.mask(2, torch.device("cpu"))
    assert narrow is not None
    assert narrow.int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 1]]
    assert Run(0, 3).mask(None, torch.device("cpu")) is None
    assert Run(0, 3).mask(3, torch.device("cpu")) is None


def scored(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What a forward pass scores, and the gradient of it by what is trained."""
    output = model(**{**batch, "use_cache": False, "fused_lm_head": True})
    weights = torch.arange(output.log_probs.numel()).reshape(output.log_probs.shape) % 7
    model.zero_grad()
    (output.log_probs * weights).sum().backward()
    return output, [each.grad.clone() for each in model.parameters() if each.grad is not None]


@pytest.fixture
def trainers(
    job: Callable[..., Job], trainer_on: Callable[..., Any], tmp_path: Path
) -> Callable[[str], list[Any]]:
    """Trainers of one kind, packed and not, whose adapters already say something."""
    kinds: dict[str, tuple[Any, ...]] = {
        "sft": (SFT(), DIALOGUES, SFTConfig()),
        "dpo": (DPO(), PAIRS, DPOConfig()),
    }

    def make(kind: str) -> list[Any]:
        made: list[Any] = []
        for packing in (True, False):
            todo = job(packing=packing)
            model = adapters.start(todo)
            torch.manual_seed(1)
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.1)
            method, examples, settings = kinds[kind]
            work = tmp_path / str(packing)
            made.append(trainer_on(method, model, examples, settings, todo, work))
        return made

    return make


def test_packed_and_padded_dialogues_score_the_same(
    trainers: Callable[[str], list[Any]],
) -> None:
    batches, found = [], []
    for trainer in trainers("sft"):
        batch = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
        batches.append({name: batch[name] for name in ("input_ids", "attention_mask", "labels")})
        found.append(scored(trainer.model, batches[-1]))
    assert batches[0]["attention_mask"].sum() < 0.8 * batches[0]["attention_mask"].numel()
    compare(found)


def test_packed_and_padded_pairs_score_the_same(trainers: Callable[[str], list[Any]]) -> None:
    found, references = [], []
    for trainer in trainers("dpo"):
        batch = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
        references.append(torch.stack([batch["ref_chosen_logps"], batch["ref_rejected_logps"]]))
        found.append(scored(trainer.model, trainer._scoring(batch)))
    compare(found)
    torch.testing.assert_close(*references, rtol=1e-5, atol=1e-4)


def compare(found: list[tuple[Any, list[torch.Tensor]]]) -> None:
    (packed, packed_gradients), (padded, padded_gradients) = found
    assert (packed.log_probs != 0).sum() > 100
    for name in ("log_probs", "entropy", "mean_logits"):
        expected = getattr(padded, name)
        if expected is not None:
            torch.testing.assert_close(getattr(packed, name), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(packed.is_top1.bool(), padded.is_top1.bool())
    assert len(packed_gradients) == len(padded_gradients) == 8  # A and B of q and v, two layers
    for one, other in zip(packed_gradients, padded_gradients, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))
