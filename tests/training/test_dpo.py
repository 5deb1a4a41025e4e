"""Preference learning against formulas written out by hand, in float64."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_examples import DIALOGUES, DPO, PAIRS, SFT

from sage_core.errors import DataError
from sage_core.schema import PreferencePair
from sage_core.training import adapters, dpo
from sage_core.training.dpo import train_dpo
from sage_core.training.job import Job, read_log
from sage_core.training.sft import train_sft
from sage_core.training.tokens import EncodedPair, Encoder

WAYS = ["continue", "stacked", "merged"]


@pytest.fixture(scope="module")
def parent(job: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("m1")
    train_sft(folder, job(), DIALOGUES, SFT)
    return folder


def double(base: Path, adapter: Path) -> Any:
    """A model in float64, by peft and transformers alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    return PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False).double().eval()


def by_hand(model: Any, pair: EncodedPair) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-distributions (S, V) over the replies' tokens: the chosen's, the rejected's."""
    found = []
    for reply in (pair.chosen, pair.rejected):
        logits = model(input_ids=torch.tensor([pair.prompt + reply])).logits[0]
        found.append(logits[len(pair.prompt) - 1 : -1].log_softmax(-1))
    return found[0], found[1]


def logged_kl(trainer: Any) -> float:
    """The divergence that is logged with the next figures."""
    trainer.log({})
    return float(trainer.state.log_history[-1]["kl"])


@pytest.mark.parametrize("how", WAYS)
def test_the_loss_is_ln_2_at_first_and_then_that_of_the_formula(
    job: Callable[..., Job],
    trainer_on: Callable[..., Any],
    chatml_tokenizer: Any,
    tiny_base: Path,
    parent: Path,
    tmp_path: Path,
    how: str,
) -> None:
    todo = job(parent, "dpo", chain=how)
    examples = [Encoder(chatml_tokenizer).pair(pair) for pair in PAIRS]
    model = adapters.start(todo)
    trainer = trainer_on(dpo.DPO(), model, PAIRS, DPO, todo, tmp_path / "work")
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
    weights = trainer.loss_weights
    trainer.loss_weights = [1.0, 0.0]  # the sigmoid term alone
    first = trainer.compute_loss(trainer.model, dict(batch))
    assert float(first) == pytest.approx(math.log(2), abs=1e-5)
    assert logged_kl(trainer) == pytest.approx(0, abs=1e-5)

    torch.manual_seed(3)
    for name, parameter in model.named_parameters():
        if f"lora_B.{adapters.TRAINED}" in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    sigmoid = trainer.compute_loss(trainer.model, dict(batch))
    trainer.loss_weights = weights
    both = trainer.compute_loss(trainer.model, dict(batch))
    both.backward()
    trained = {name for name, each in model.named_parameters() if each.grad is not None}
    assert trained
    assert all(f".{adapters.TRAINED}." in name for name in trained)

    work, now = tmp_path / "trained", tmp_path / "checkpoint"
    now.mkdir()
    trainer.save_model(str(work))
    adapters.save(now, work, todo)
    policy, reference = double(tiny_base, now), double(tiny_base, parent)
    margins, chosen_losses = [], []
    with torch.no_grad():
        for example in examples:
            ratios = []
            pairs = zip(by_hand(policy, example), by_hand(reference, example), strict=True)
            for (ours, theirs), reply in zip(
                pairs, (example.chosen, example.rejected), strict=True
            ):
                picked = torch.tensor(reply)[:, None]
                ratios.append((ours.gather(1, picked) - theirs.gather(1, picked)).sum())
                if reply is example.chosen:
                    chosen_losses.append(-ours.gather(1, picked)[:, 0])
            margins.append(ratios[0] - ratios[1])
        kl = torch.cat(
            [
                (ours.exp() * (ours - theirs)).sum(-1)
                for ours, theirs in zip(
                    by_hand(policy, examples[0]), by_hand(reference, examples[0]), strict=True
                )
            ]
        ).mean()
    expected = -torch.nn.functional.logsigmoid(DPO.beta * torch.stack(margins)).mean()
    assert abs(float(expected) - math.log(2)) > 1e-3
    assert float(sigmoid) == pytest.approx(float(expected), abs=1e-4)
    with_sft = expected + DPO.sft_weight * torch.cat(chosen_losses).mean()
    assert float(both) == pytest.approx(float(with_sft), abs=1e-4)
    assert logged_kl(trainer) == pytest.approx(float(kl), rel=1e-3)
    assert kl > 1e-3


@pytest.mark.parametrize("packing", [True, False])
def test_what_preference_learning_logs(
    job: Callable[..., Job], parent: Path, tmp_path: Path, packing: bool
) -> None:
    settings = DPO.model_copy(update={"epochs": 4})
    equal = PreferencePair(PAIRS[0].prompt, "Yes.", "Yes.")
    train_dpo(tmp_path, job(parent, "dpo", packing=packing), [equal, *PAIRS], settings)
    log = read_log(tmp_path)
    assert (log["examples"], log["left_out"], log["steps"]) == (8, {"equal_replies": 1}, 8)
    first, last = log["history"][0], log["history"][-1]
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert first["kl"] == pytest.approx(0, abs=1e-5)
    assert last["rewards/margins"] > 0.1
    assert last["rewards/accuracies"] > 0.5
    assert last["kl"] > 1e-4


def test_pairs_that_cannot_be_learnt_from(
    job: Callable[..., Job], parent: Path, tmp_path: Path
) -> None:
    equal = PreferencePair(PAIRS[0].prompt, "Yes.", "Yes.")
    empty = PreferencePair(PAIRS[0].prompt, "Yes.", " ")
    with pytest.raises(DataError, match="1 have an empty reply, 1 have the same reply"):
        train_dpo(tmp_path, job(parent, "dpo"), [equal, empty], DPO)
