"""Training in two processes, as `accelerate launch` starts them."""

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file
from training_examples import DIALOGUES, SFT

from sage_core import preflight
from sage_core.config.loading import load_config
from sage_core.config.pipeline import EXPERIMENTAL
from sage_core.config.section import NEVER_RUN
from sage_core.config.training import LauncherConfig
from sage_core.errors import ConfigError, DataError
from sage_core.training.job import Job, read_log
from sage_core.training.launch import check_launcher
from sage_core.training.sft import train_sft

TWO = LauncherConfig(processes=2)


def test_two_processes_learn_what_one_does(job: Callable[..., Job], tmp_path: Path) -> None:
    """A step's examples are the same ones: four in two micro batches, or two in each process. The
    last step of an epoch has one. `accelerate` repeats others until both processes have two: one
    beside it, and two in the other process, none of which must count."""
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    settings = SFT.model_copy(update={"epochs": 2, "learning_rate": 1e-3})
    steps: list[tuple[int, int]] = []
    train_sft(one, job(), DIALOGUES[:5], settings)
    train_sft(
        two, job(launcher=TWO), DIALOGUES[:5], settings, tmp_path / "work",
        lambda *step: steps.append(step),
    )  # fmt: skip
    assert steps == [(step, 4) for step in range(1, 5)]
    assert sorted(path.name for path in two.iterdir()) == sorted(
        path.name for path in one.iterdir()
    )
    for single, both in zip(read_log(one)["history"], read_log(two)["history"], strict=True):
        # Of an epoch with a repeated example the share that is done differs.
        del single["epoch"], both["epoch"]
        assert both == pytest.approx(single, rel=1e-3)
    name = "adapter_model.safetensors"
    ours, theirs = load_file(two / name), load_file(one / name)
    for key, tensor in ours.items():
        assert (tensor - theirs[key]).abs().max() < 1e-5


@pytest.mark.integration
def test_what_a_process_raises_is_raised_here(job: Callable[..., Job], tmp_path: Path) -> None:
    short = SFT.model_copy(update={"max_length": 3})
    with pytest.raises(DataError, match="nothing is left to train on: of 8 dialogues"):
        train_sft(tmp_path, job(launcher=TWO), DIALOGUES, short, tmp_path / "work")


@pytest.mark.integration
def test_no_process_is_left_when_the_task_is_cancelled(
    job: Callable[..., Job], tmp_path: Path
) -> None:
    before, seen = set(psutil.Process().children(recursive=True)), set[psutil.Process]()

    def cancel(step: int, steps: int) -> None:
        seen.update(set(psutil.Process().children(recursive=True)) - before)
        raise KeyboardInterrupt

    long = SFT.model_copy(update={"epochs": 500})
    with pytest.raises(KeyboardInterrupt):
        train_sft(tmp_path, job(launcher=TWO), DIALOGUES, long, tmp_path / "work", cancel)
    assert len(seen) >= 4  # the supervisor, accelerate, and two that train
    assert [process for process in seen if alive(process)] == []


def alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_cannot_be_launched_is_said_before(tmp_path: Path) -> None:
    check_launcher(None)
    check_launcher(TWO)
    with pytest.raises(ConfigError, match=r"accelerate_config = .* does not exist"):
        check_launcher(LauncherConfig(accelerate_config=tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="needs the package deepspeed"):
        check_launcher(LauncherConfig(strategy="zero3"))


def test_the_doctor_says_what_has_never_been_run() -> None:
    from flows.commands.doctor_checks import experimental_checks

    wanted = ["model.quantization=4bit", "training.launcher={strategy: fsdp}"]
    (check,) = experimental_checks(load_config("tiny", wanted))
    assert check.what == "model.quantization=4bit, training.launcher.strategy=fsdp"
    assert check.found == NEVER_RUN
    for tested in ([], ["training.launcher={processes: 2}"]):
        assert list(experimental_checks(load_config("tiny", tested))) == []


def test_experimental_options_are_values_of_the_configuration() -> None:
    for key, values in EXPERIMENTAL.items():
        for value in values:
            chosen = load_config("tiny", [f"{key}={value}"]).experimental()
            assert chosen == [f"{key}={value}"]


def test_preflight_and_doctor_say_what_training_lacks(tmp_path: Path) -> None:
    from flows.commands.doctor_checks import training_checks

    wanted = ["model.quantization=4bit", "model.device=cpu", "training.launcher={strategy: zero2}"]
    config = load_config("tiny", wanted)
    with pytest.raises(ConfigError, match=r"4bit' needs .*a GPU(.|\n)*needs the package deepspeed"):
        preflight.check(config)
    four_bits, launcher = training_checks(config)
    assert not four_bits.ok
    assert "model.quantization=none" in four_bits.fix
    assert not launcher.ok
    assert "deepspeed" in launcher.found
    assert list(training_checks(load_config("tiny"))) == []
    (ddp,) = training_checks(load_config("tiny", ["training.launcher={processes: 2}"]))
    assert ddp.ok
