"""Fine-tuning: weights and losses by segment, what cannot be trained on, what is not finite."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_examples import DIALOGUES, SFT

from sage_core.errors import DataError
from sage_core.schema import TrainingDialogue, with_roles
from sage_core.storage import read_json
from sage_core.training import adapters, sft
from sage_core.training.job import Job, read_log
from sage_core.training.sft import train_sft
from sage_core.training.tokens import SEGMENTS, STATE, Encoder


def losses_by_hand(tokenizer: Any, model: Any) -> dict[int, torch.Tensor]:
    """Minus log-probability of every scored token by segment, one dialogue at a time, as
    transformers computes it."""
    found: dict[int, list[torch.Tensor]] = {}
    for dialogue in DIALOGUES:
        encoded = Encoder(tokenizer).dialogue(dialogue)
        ids = torch.tensor([encoded.ids])
        log_probs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        losses = -log_probs.gather(1, ids[0, 1:, None])[:, 0]
        for loss, segment in zip(losses, encoded.segments[1:], strict=True):
            found.setdefault(segment, []).append(loss)
    return {segment: torch.stack(losses) for segment, losses in found.items()}


@pytest.mark.parametrize("weights", [(1, 1, 1), (0, 1, 1), (0.5, 2, 0), (0, 0, 3)])
def test_the_loss_and_its_gradient_are_those_of_the_weighted_tokens(
    job: Callable[..., Job],
    trainer_on: Callable[..., Any],
    chatml_tokenizer: Any,
    tiny_base: Path,
    tmp_path: Path,
    weights: tuple[float, float, float],
) -> None:
    """A segment of weight 0 has no gradient: the sum by hand leaves it out."""
    from peft import PeftModel, get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    todo = job()
    settings = SFT.model_copy(
        update={"weights": SFT.weights.model_copy(update=dict(zip(SEGMENTS, weights, strict=True)))}
    )
    model = adapters.start(todo)
    trainer = trainer_on(sft.SFT(), model, DIALOGUES, settings, todo, tmp_path)
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()

    folder = tmp_path / "adapter"
    model.save_pretrained(folder, save_embedding_layers=False)
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_base), folder, is_trainable=True
    )
    by_hand = losses_by_hand(chatml_tokenizer, plain)
    used = {STATE + place: weight for place, weight in enumerate(weights) if weight}
    total = sum(weight * by_hand[segment].sum() for segment, weight in used.items())
    expected = total / sum(weight * len(by_hand[segment]) for segment, weight in used.items())
    expected.backward()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    ours = {name: each.grad for name, each in trainer.model.named_parameters() if "lora_B" in name}
    hands = {name: each.grad for name, each in plain.named_parameters() if "lora_B" in name}
    assert ours.keys() == hands.keys()
    assert len(get_peft_model_state_dict(plain)) == 2 * len(ours)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, hands[name], rtol=1e-3, atol=1e-6)

    logs: dict[str, float] = {}
    trainer.log(logs)
    for segment, name in enumerate(SEGMENTS, start=STATE):  # logged whatever their weight
        assert logs[f"loss/{name}"] == pytest.approx(float(by_hand[segment].mean()), rel=1e-5)


def test_what_training_leaves_behind(job: Callable[..., Job], tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    silent = TrainingDialogue(with_roles(["hello?"]))
    train_sft(tmp_path, job(), [silent, *DIALOGUES], SFT, on_step=lambda *step: steps.append(step))
    assert steps == [(1, 2), (2, 2)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "lineage.json", "training_log.json",
    ]  # fmt: skip
    log = read_log(tmp_path)
    assert (log["examples"], log["left_out"], log["steps"]) == (8, {"no_reply": 1}, 2)
    for entry in log["history"]:
        assert {"step", "loss", "loss/state", "loss/action", "loss/utterance"} <= entry.keys()
    assert read_json(tmp_path / "adapter_config.json")["target_modules"] == ["q_proj", "v_proj"]


def test_packed_and_padded_training_log_the_same(job: Callable[..., Job], tmp_path: Path) -> None:
    histories = []
    for packing, checkpointing in ((True, False), (False, False), (True, True)):
        folder = tmp_path / f"{packing} {checkpointing}"
        folder.mkdir()
        todo = job(packing=packing, gradient_checkpointing=checkpointing)
        train_sft(folder, todo, DIALOGUES, SFT)
        histories.append(read_log(folder)["history"])
    for packed, padded, recomputed in zip(*histories, strict=True):
        assert packed == pytest.approx(padded, rel=1e-4)
        assert packed == pytest.approx(recomputed, rel=1e-4)


def test_replies_without_states_are_all_utterance(job: Callable[..., Job], tmp_path: Path) -> None:
    raw = [TrainingDialogue(with_roles([f"hi {n}", "Hello."])) for n in range(4)]
    train_sft(tmp_path, job(name="raw"), raw, SFT)
    (entry,) = read_log(tmp_path)["history"]
    assert entry["loss/utterance"] == pytest.approx(entry["loss"], rel=1e-5)
    assert "loss/state" not in entry


def test_one_dialogue_longer_than_the_context(job: Callable[..., Job], tmp_path: Path) -> None:
    long = TrainingDialogue(with_roles(["word " * 500, "Yes."]))
    short = SFT.model_copy(update={"max_length": 200})
    train_sft(tmp_path, job(), [long, *DIALOGUES[:2]], short)
    log = read_log(tmp_path)
    assert (log["examples"], log["left_out"]) == (2, {"too_long": 1})
    with pytest.raises(DataError, match="nothing is left to train on: of 1 dialogues"):
        train_sft(tmp_path / "none", job(), [long], short)


def test_a_loss_that_is_not_finite_names_its_examples(
    job: Callable[..., Job], tmp_path: Path
) -> None:
    """The first step takes the weights out of all bounds, so the second one's loss is nan."""
    work = tmp_path / "work"
    settings = SFT.model_copy(update={"learning_rate": 1e30, "epochs": 3})
    silent = TrainingDialogue(with_roles(["hello?"]))  # examples are counted in the input
    with pytest.raises(DataError, match=r"is (nan|inf) at step 2, in the examples \[") as caught:
        train_sft(tmp_path, job(save_steps=1), [silent, *DIALOGUES], settings, work)
    text = str(caught.value).split("[")[1].split("]")[0]
    blamed = [int(row) for row in text.split(",")]
    assert blamed
    assert set(blamed) <= set(range(1, 9))
    assert sorted(path.name for path in work.glob("checkpoint-*")) == ["checkpoint-1"]
