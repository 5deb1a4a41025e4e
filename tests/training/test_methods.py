"""Methods by name, and one that is not ours: the example's ORPO, in one and in two processes."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_examples import DIALOGUES, PAIRS, SFT

from sage_core.config.training import DPOConfig, LauncherConfig
from sage_core.errors import ConfigError
from sage_core.named import load, path_of
from sage_core.storage import read_json
from sage_core.training import adapters, methods
from sage_core.training.job import Job, read_log
from sage_core.training.method import LossMethod
from sage_core.training.tokens import Encoder

ROOT = Path(__file__).parents[2]
PATH = "training_method:ORPO"


@pytest.fixture
def orpo(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module of the example, where a user's would be; what it registers is forgotten after."""
    monkeypatch.setattr(methods, "_METHODS", dict(methods._METHODS))
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.delitem(__import__("sys").modules, "training_method", raising=False)
    import training_method

    return training_method


def test_a_method_is_found_by_name_or_by_path(orpo: Any) -> None:
    assert methods.names() == ("dpo", "orpo", "sft")
    for name in ("orpo", PATH):
        assert type(methods.method(name)) is orpo.ORPO


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("kto", r"no training method 'kto'; choose one of dpo, sft, or name a class as package"),
        ("nowhere.at_all:KTO", r"'nowhere.at_all:KTO' cannot be imported .*No module named"),
        ("sage_core.training.sft:KTO", r"cannot be imported .*has no attribute 'KTO'"),
        (
            "sage_core.training.sft:train_sft",
            r"not a subclass of Method; choose one of dpo",
        ),
        ("sage_core.training.sft:", r"not of the form package.module:name"),
    ],
)
def test_a_wrong_name_is_said_with_the_right_ones(name: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        methods.method(name)


def test_two_methods_cannot_have_one_name(orpo: Any) -> None:
    methods.register(orpo.ORPO)  # once more is the same
    other = type("Other", (orpo.ORPO,), {})
    with pytest.raises(ConfigError, match=r"method 'orpo' already.*: dpo, orpo, sft"):
        methods.register(other)


def test_settings_of_another_method_are_refused(job: Callable[..., Job], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'sft' takes settings of type SFTConfig, not DPOConfig"):
        methods.train("sft", tmp_path, job(), DIALOGUES, DPOConfig())


def test_what_another_process_cannot_import_is_not_launched() -> None:
    class Local(LossMethod[Any, Any]): ...

    with pytest.raises(ConfigError, match=r"Local cannot be imported by another process"):
        path_of(Local)
    assert load(path_of(LossMethod)) is LossMethod


def test_a_method_by_name_trains_as_the_function_does(
    job: Callable[..., Job], tmp_path: Path
) -> None:
    from sage_core.training.sft import train_sft

    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    train_sft(one, job(), DIALOGUES, SFT)
    methods.train("sage_core.training.sft:SFT", other, job(), DIALOGUES, SFT)
    for path in one.iterdir():
        assert (other / path.name).read_bytes() == path.read_bytes()


def test_the_loss_of_a_method_of_ones_own(
    orpo: Any,
    job: Callable[..., Job],
    trainer_on: Callable[..., Any],
    chatml_tokenizer: Any,
    tiny_base: Path,
    tmp_path: Path,
) -> None:
    """The mean over pairs of the paper's formula, one pair at a time, packed or not. The adapter
    says nothing at first, so the plain base has the same log-probabilities."""
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(tiny_base)
    settings = orpo.ORPOConfig()
    for packing in (True, False):
        todo = job(packing=packing)
        model = adapters.start(todo)
        trainer = trainer_on(orpo.ORPO(), model, PAIRS, settings, todo, tmp_path)
        batch = trainer.data_collator([trainer.train_dataset[row] for row in range(8)])
        loss = float(trainer.compute_loss(trainer.model, batch).detach())
        expected = []
        for pair in map(Encoder(chatml_tokenizer).pair, PAIRS):
            means = []
            for reply in (pair.chosen, pair.rejected):
                with torch.no_grad():
                    logits = plain(input_ids=torch.tensor([pair.prompt + reply])).logits[0]
                scores = logits[len(pair.prompt) - 1 : -1].double().log_softmax(-1)
                means.append(float(scores.gather(1, torch.tensor(reply)[:, None]).mean()))
            odds = [math.exp(mean) / (1 - math.exp(mean)) for mean in means]
            ratio = odds[0] / odds[1]
            expected.append(-means[0] + settings.weight * math.log(1 + 1 / ratio))
        assert loss == pytest.approx(sum(expected) / 8, rel=1e-4)


@pytest.mark.integration
def test_a_method_of_ones_own_in_two_processes(
    orpo: Any, job: Callable[..., Job], tmp_path: Path
) -> None:
    """Each imports it from where this process did, and together they learn what one does, also
    where examples are repeated at the end of an epoch: the last step has three."""
    settings = orpo.ORPOConfig(epochs=2, micro_batch_size=2)
    logs = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        todo = job()
        if processes == 2:
            launcher = LauncherConfig(processes=2)
            training = todo.training.model_copy(update={"launcher": launcher})
            todo = replace(todo, training=training)
        methods.train(PATH, folder, todo, PAIRS[:7], settings)
        assert read_json(folder / adapters.LINEAGE)["models"][-1]["stage"] == "orpo"
        logs.append(read_log(folder)["history"])
    assert logs[0][-1]["loss/log_odds"] > logs[0][0]["loss/log_odds"]
    for single, both in zip(*logs, strict=True):
        assert both == pytest.approx(single, rel=1e-3, abs=1e-5)
