"""What the seed decides, how the learning rate falls, and how many steps there are."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_examples import DIALOGUES, DPO, PAIRS, SFT, STATES

from sage_core.schema import Message, TrainingDialogue
from sage_core.training import adapters
from sage_core.training.dpo import train_dpo
from sage_core.training.job import Job, read_log
from sage_core.training.sft import train_sft

WITHOUT_STATES = [
    TrainingDialogue(
        tuple(Message(each.role, each.content.removeprefix(STATES)) for each in dialogue.messages)
    )
    for dialogue in DIALOGUES
]


def trained(train: Callable[..., None], folder: Path, job: Job, *arguments: Any) -> bytes:
    folder.mkdir()
    train(folder, job, *arguments)
    return (folder / adapters.ADAPTER).read_bytes()


@pytest.fixture(scope="module")
def m1(job: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeds") / "m1"
    trained(train_sft, folder, job(), DIALOGUES, SFT)
    return folder


def test_the_seed_decides_the_first_weights(job: Callable[..., Job]) -> None:
    def first(seed: int) -> bytes:
        weights = dict(adapters.start(replace(job(), seed=seed)).named_parameters())
        (name, *_) = (name for name in weights if "lora_A" in name)
        return bytes(weights[name].detach().numpy().tobytes())

    assert first(0) == first(0) != first(1)


@pytest.mark.parametrize("which", ["sft", "dpo"])
def test_the_seed_decides_the_order_of_the_examples(
    job: Callable[..., Job], m1: Path, tmp_path: Path, which: str
) -> None:
    """m1's own adapter goes on, without dropout, so that nothing else is drawn."""
    training: dict[str, tuple[Any, ...]] = {
        "sft": (train_sft, DIALOGUES, SFT),
        "dpo": (train_dpo, PAIRS, DPO),
    }
    train, *arguments = training[which]

    def weights(name: str, seed: int) -> bytes:
        todo = replace(job(m1, "m2"), seed=seed)
        return trained(train, tmp_path / name, todo, *arguments)

    assert weights("a", 0) == weights("b", 0) != weights("c", 1)


def test_the_seed_decides_what_is_dropped_out(job: Callable[..., Job], tmp_path: Path) -> None:
    """One example has no order, and an adapter that goes on has its first weights."""
    parent = tmp_path / "m1"
    trained(train_sft, parent, job(dropout=0.5), DIALOGUES[:1], SFT)

    def weights(name: str, seed: int) -> bytes:
        todo = replace(job(parent, "m2", dropout=0.5), seed=seed)
        return trained(train_sft, tmp_path / name, todo, DIALOGUES[3:4], SFT)

    assert weights("a", 0) == weights("b", 0) != weights("c", 1)


def cosine(step: int, steps: int, warmup: int) -> float:
    """Share of the peak in the optimiser step ``step``, from 0: up in a straight line, then down in
    half a cosine (Loshchilov and Hutter, 2017)."""
    if step < warmup:
        return step / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


@pytest.mark.parametrize("warmup", [0, 2])
def test_the_learning_rate_of_fine_tuning_is_a_cosine(
    job: Callable[..., Job], tmp_path: Path, warmup: int
) -> None:
    settings = SFT.model_copy(update={"epochs": 3, "warmup_steps": warmup})
    train_sft(tmp_path, job(), DIALOGUES, settings)
    rates = [entry["learning_rate"] for entry in read_log(tmp_path)["history"]]
    assert rates == pytest.approx([SFT.learning_rate * cosine(n, 6, warmup) for n in range(6)])


def test_the_learning_rate_of_preference_learning_is_a_cosine(
    job: Callable[..., Job], m1: Path, tmp_path: Path
) -> None:
    train_dpo(tmp_path, job(m1, "dpo"), PAIRS, DPO.model_copy(update={"epochs": 2}))
    rates = [entry["learning_rate"] for entry in read_log(tmp_path)["history"]]
    assert rates == pytest.approx([DPO.learning_rate * cosine(n, 4, 0) for n in range(4)])


def test_raw_is_trained_for_as_many_steps_as_m1(job: Callable[..., Job], tmp_path: Path) -> None:
    """On the same dialogues, one with states and one without."""
    settings = SFT.model_copy(update={"epochs": 2})
    logs = {}
    for name, dialogues in (("raw", WITHOUT_STATES), ("m1", DIALOGUES)):
        trained(train_sft, tmp_path / name, job(name=name), dialogues, settings)
        log = read_log(tmp_path / name)
        rates = [entry["learning_rate"] for entry in log["history"]]
        logs[name] = log["examples"], log["steps"], rates
    assert logs["raw"] == logs["m1"]
    assert logs["m1"][:2] == (8, 4)
