"""Rounds on rounds: whatever ``lora.chain`` says, a checkpoint is one adapter over m0."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_examples import DIALOGUES, DPO, PAIRS, SFT

from sage_core.config.loading import load_config
from sage_core.config.model import ModelConfig
from sage_core.engines.loading import check_quantization
from sage_core.errors import ConfigError
from sage_core.storage import content_hash, read_json
from sage_core.training import adapters
from sage_core.training.dpo import train_dpo
from sage_core.training.job import Job
from sage_core.training.sft import train_sft

IDS = torch.arange(3, 60)[None]


@pytest.fixture(scope="module")
def m1(job: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rounds") / "m1"
    folder.mkdir()
    train_sft(folder, job(), DIALOGUES, SFT)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits[0]
    return found


def served(base: Path, adapter: Path) -> torch.Tensor:
    """What an engine that loads m0 and the adapter's folder computes."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter))


@pytest.mark.parametrize("how", ["continue", "stacked", "merged"])
def test_a_round_starts_as_the_last_one_ended(
    job: Callable[..., Job], tiny_base: Path, m1: Path, how: str
) -> None:
    before = served(tiny_base, m1)
    assert (before - served_base(tiny_base)).abs().max() > 0.01
    model = adapters.start(job(m1, "m2", chain=how)).eval()
    torch.testing.assert_close(logits(model), before, atol=1e-3, rtol=0)
    trained = [name for name, each in model.named_parameters() if each.requires_grad]
    assert len(trained) == 8
    assert all(f".{adapters.TRAINED}." in name for name in trained)


def served_base(base: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    return logits(AutoModelForCausalLM.from_pretrained(base))


def test_the_frozen_adapter_of_a_stack_has_no_dropout_while_training(
    job: Callable[..., Job], tmp_path: Path
) -> None:
    """The new adapter still says nothing, so all that varies would be the frozen one's."""
    parent = tmp_path / "m1"
    parent.mkdir()
    train_sft(parent, job(dropout=0.5), DIALOGUES, SFT)
    assert read_json(parent / "adapter_config.json")["lora_dropout"] == 0.5
    model = adapters.start(job(parent, "m2", chain="stacked", dropout=0.5)).train()
    assert torch.equal(logits(model), logits(model))
    torch.testing.assert_close(logits(model), logits(model.eval()))
    for name, parameter in model.train().named_parameters():
        if f"lora_B.{adapters.TRAINED}" in name:
            torch.nn.init.normal_(parameter)
    assert not torch.equal(logits(model), logits(model))  # the trained one's dropout is on


def test_merged_and_stacked_rounds_give_the_same_logits(
    job: Callable[..., Job], tiny_base: Path, m1: Path, tmp_path: Path
) -> None:
    found: dict[str, torch.Tensor] = {}
    for how in ("continue", "stacked", "merged"):
        parent = m1
        for number in (2, 3):
            folder = tmp_path / how / f"m{number}"
            folder.mkdir(parents=True)
            train_sft(folder, job(parent, f"m{number}", chain=how), DIALOGUES, SFT)
            rank = 4 if how == "continue" else 4 * number
            assert read_json(folder / "adapter_config.json")["r"] == rank
            parent = folder
        found[how] = served(tiny_base, parent)
    torch.testing.assert_close(found["merged"], found["stacked"], atol=1e-3, rtol=0)
    assert (found["stacked"] - served(tiny_base, m1)).abs().max() > 0.01
    assert (found["stacked"] - found["continue"]).abs().max() > 1e-3


@pytest.mark.parametrize("how", ["stacked", "merged"])
def test_what_is_saved_is_what_was_trained(
    job: Callable[..., Job], tiny_base: Path, m1: Path, tmp_path: Path, how: str
) -> None:
    """Joining adapters of other ranks and scales is exact."""
    todo = job(m1, "m2", chain=how, rank=3, alpha=12)
    model = adapters.start(todo).eval()
    torch.manual_seed(2)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(
        tmp_path / "work", selected_adapters=[adapters.TRAINED], save_embedding_layers=False
    )
    folder = tmp_path / "m2"
    folder.mkdir()
    adapters.save(folder, tmp_path / "work", todo)
    assert read_json(folder / "adapter_config.json")["r"] == 7
    torch.testing.assert_close(served(tiny_base, folder), logits(model), atol=1e-3, rtol=0)


def test_adapters_of_other_layers_cannot_be_joined(job: Callable[..., Job], m1: Path) -> None:
    other = job(m1, "m2", chain="stacked", target_modules=("k_proj",), rank=9, dropout=0.5)
    with pytest.raises(ConfigError) as refused:
        adapters.check(other)
    assert str(refused.value) == (
        f"lora.chain = 'stacked' needs the settings of the adapter '{m1}': lora.target_modules is "
        "[q_proj,v_proj] there and [k_proj] in the configuration; set "
        "lora.target_modules=[q_proj,v_proj], or start from another model"
    )
    adapters.check(job(m1, "m2", chain="stacked", rank=9, alpha=1, dropout=0.5))


def test_a_continued_adapter_has_the_settings_of_the_configuration(
    job: Callable[..., Job], m1: Path
) -> None:
    """Its own were kept whatever the configuration said."""
    adapters.check(job(m1, "m2", target_modules=("v_proj", "q_proj")))
    adapters.check(job(m1, "m2", target_modules=("self_attn.q_proj", "self_attn.v_proj")))
    with pytest.raises(ConfigError) as refused:
        adapters.check(job(m1, "m2", rank=8, alpha=32, dropout=0.1))
    assert str(refused.value) == (
        f"lora.chain = 'continue' needs the settings of the adapter '{m1}': lora.rank is 4 there "
        "and 8 in the configuration; lora.alpha is 8 there and 32 in the configuration; "
        "lora.dropout is 0.0 there and 0.1 in the configuration; set lora.rank=4 lora.alpha=8 "
        "lora.dropout=0.0, or lora.chain=stacked to train a new adapter on top of it"
    )
    with pytest.raises(ConfigError, match=r"is \[q_proj,v_proj\] there and \[down_proj,gate_proj"):
        train_sft(m1.parent, job(m1, "m2", target_modules="all-linear"), DIALOGUES, SFT)


def test_the_lineage_names_all_ancestors(
    job: Callable[..., Job], tiny_base: Path, m1: Path, tmp_path: Path
) -> None:
    m2, dpo = tmp_path / "m2", tmp_path / "dpo"
    for folder in (m2, dpo):
        folder.mkdir()
    train_sft(m2, job(m1, "m2", chain="stacked"), DIALOGUES[:4], SFT)
    train_dpo(dpo, job(m2, "dpo", rank=8, alpha=8), PAIRS, DPO)
    models = read_json(dpo / adapters.LINEAGE)["models"]
    assert [(each["name"], each["stage"], each.get("method")) for each in models] == [
        ("m0", "base-model", None), ("m1", "sft", "new"), ("m2", "sft", "stacked"),
        ("dpo", "dpo", "continue"),
    ]  # fmt: skip
    hashes = [content_hash(folder) for folder in (tiny_base, m1, m2)]
    assert [each.get("sha256") for each in models] == [*hashes, None]
    data = [each["data_sha256"] for each in models[1:]]
    assert len(set(data)) == 3
    assert all(len(each) == 64 for each in data)


def test_four_bits_need_a_gpu_and_bitsandbytes() -> None:
    with pytest.raises(ConfigError, match=r"4bit' needs .*a GPU .*or set model.quantization=none"):
        check_quantization(ModelConfig(quantization="4bit", device="cpu"))
    with pytest.raises(ConfigError, match=r"lora\.chain = 'merged' needs the base's full weights"):
        load_config("tiny", ["model.quantization=4bit", "lora.chain=merged"])
