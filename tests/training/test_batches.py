"""What a step learns does not depend on how it is cut into forward passes and processes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_examples import DIALOGUES, DPO, PAIRS, SFT

from sage_core.config.loading import load_config
from sage_core.config.training import LauncherConfig
from sage_core.errors import ConfigError
from sage_core.training import adapters, dpo
from sage_core.training.dpo import train_dpo
from sage_core.training.job import Job, read_log
from sage_core.training.sft import train_sft
from sage_core.training.tokens import Encoder

TWO = LauncherConfig(processes=2)
UNEVEN = PAIRS[:7]  # a step of four, and one of three


@pytest.fixture(scope="module")
def parent(job: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("m1")
    train_sft(folder, job(), DIALOGUES, SFT)
    return folder


def weights(folder: Path) -> torch.Tensor:
    """All numbers of an adapter in one row."""
    tensors = load_file(folder / adapters.ADAPTER)
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.mark.parametrize("packing", [True, False])
def test_preference_learning_does_not_depend_on_the_micro_batch(
    job: Callable[..., Job], parent: Path, tmp_path: Path, packing: bool
) -> None:
    found, losses = [], []
    for micro in (4, 1, 2, 3):  # of three, the largest that divides four is two
        folder = tmp_path / str(micro)
        folder.mkdir()
        settings = DPO.model_copy(update={"micro_batch_size": micro, "learning_rate": 1e-3})
        train_dpo(folder, job(parent, "dpo", packing=packing), UNEVEN, settings)
        found.append(weights(folder))
        losses.append([entry["loss"] for entry in read_log(folder)["history"]])
    assert (found[0] - weights(parent)).abs().max() > 1e-3
    for other, logged in zip(found[1:], losses[1:], strict=True):
        assert (other - found[0]).abs().max() < 1e-6
        assert logged == pytest.approx(losses[0], abs=1e-4)
    assert torch.equal(found[2], found[3])


def test_the_gradient_of_a_step_is_that_of_the_formula(
    job: Callable[..., Job],
    trainer_on: Callable[..., Any],
    chatml_tokenizer: Any,
    tiny_base: Path,
    parent: Path,
    tmp_path: Path,
) -> None:
    """-log sigmoid(beta x margin) by pair, and minus the log-probability by token of the chosen:
    each a mean over the whole step, here of eight pairs in passes of three, three and two."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    todo = job(parent, "dpo")
    trainer = trainer_on(dpo.DPO(), adapters.start(todo), PAIRS, DPO, todo, tmp_path)
    rows = [trainer.train_dataset[row] for row in range(8)]
    cut = [trainer.data_collator(rows[start : start + 3]) for start in (0, 3, 6)]
    step = trainer._get_num_items_in_batch(cut, torch.device("cpu"))
    losses = [trainer.compute_loss(trainer.model, each, num_items_in_batch=step) for each in cut]
    total = sum(losses)
    total.backward()

    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float64)
    plain = PeftModel.from_pretrained(
        base, parent, is_trainable=True, autocast_adapter_dtype=False
    ).double()
    margins, chosen = [], []
    for pair in map(Encoder(chatml_tokenizer).pair, PAIRS):
        now = [log_probs(plain, pair.prompt, each) for each in (pair.chosen, pair.rejected)]
        ratios = [each.sum() - each.detach().sum() for each in now]  # from the reference, now
        margins.append(ratios[0] - ratios[1])
        chosen.append(now[0])
    sigmoid = -torch.nn.functional.logsigmoid(DPO.beta * torch.stack(margins)).mean()
    expected = sigmoid - DPO.sft_weight * torch.cat(chosen).mean()
    expected.backward()
    assert float(total) == pytest.approx(float(expected), abs=1e-5)
    ours = {name: each.grad for name, each in trainer.model.named_parameters() if "default" in name}
    hands = dict(plain.named_parameters())
    assert len(ours) == 8
    for name, gradient in ours.items():
        assert (gradient - hands[name].grad).norm() < 1e-5 * hands[name].grad.norm(), name


def log_probs(model: Any, prompt: list[int], reply: list[int]) -> torch.Tensor:
    """(S,) of the tokens of a reply."""
    logits = model(input_ids=torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(reply)[:, None])[:, 0]


@pytest.mark.integration
def test_two_processes_learn_from_the_pairs_of_one(
    job: Callable[..., Job], parent: Path, tmp_path: Path
) -> None:
    """The last step has one pair, which only one of the processes may count; test_launch.py has
    the same of SFT."""
    settings = DPO.model_copy(update={"learning_rate": 1e-3})
    found = []
    for launcher in (None, TWO):
        folder = tmp_path / str(launcher is None)
        folder.mkdir()
        train_dpo(folder, job(parent, "m2", launcher=launcher), PAIRS[:5], settings)
        found.append(weights(folder))
    assert (found[0] - found[1]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "passes"),
    [
        (32, 4, 1, (4, 8)), (32, 4, 2, (4, 4)), (4, 3, 1, (2, 2)), (6, 4, 1, (3, 2)),
        (5, 4, 1, (1, 5)), (2, 8, 1, (2, 1)), (12, 4, 3, (4, 1)),
    ],
)  # fmt: skip
def test_a_step_is_cut_into_equal_passes(
    batch: int, micro: int, processes: int, passes: Sequence[int]
) -> None:
    from sage_core.training.trainers import batches

    settings = SFT.model_copy(update={"batch_size": batch, "micro_batch_size": micro})
    assert batches(settings, processes) == passes


def test_steps_that_processes_cannot_share_are_refused() -> None:
    from sage_core.training.trainers import batches

    with pytest.raises(ConfigError, match=r"batch_size = 4 cannot be .* over 3 processes; set it"):
        batches(SFT, 3)
    wanted = ["training.launcher={processes: 3}", "sft.batch_size=6", "dpo.batch_size=9"]
    with pytest.raises(ConfigError, match=r"refine\.sft\.batch_size = 2 cannot") as refused:
        load_config("tiny", wanted)
    assert " sft.batch_size" not in str(refused.value)
    assert "dpo.batch_size" not in str(refused.value)
    load_config("tiny", [*wanted, "refine.sft.batch_size=3"])
