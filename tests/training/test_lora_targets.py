"""The layers that LoRA is attached to: as peft knows them, all linear ones, or as they are set."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from training_examples import DIALOGUES, FLOAT, SFT

from benchmarks.small_models import save_small_model, small_model
from sage_core import preflight
from sage_core.config.loading import load_config
from sage_core.config.model import EMBEDDED_MODEL, ModelConfig
from sage_core.config.training import LoraConfig
from sage_core.engines.loading import load_model, prepare_base
from sage_core.errors import ConfigError, EngineError
from sage_core.execution import noting
from sage_core.planning.sizes import MODELS, planned_targets
from sage_core.training import adapters, lora_targets
from sage_core.training.job import Job
from sage_core.training.lora_targets import planned_reach, reach_of
from sage_core.training.sft import train_sft

ATTENTION_PROJECTIONS = ("q_proj", "v_proj")
LATENT = ("kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "q_a_proj", "q_b_proj")
FOUND = {
    "gemma2": ("eager", ATTENTION_PROJECTIONS),
    "gptj": ("eager", ATTENTION_PROJECTIONS),
    "bloom": ("eager", ("query_key_value",)),
    "mpt": ("eager", ("Wqkv",)),
    "gpt_oss": ("eager", ("k_proj", "o_proj", "q_proj", "v_proj")),
    "phi3": ("sdpa", ("down_proj", "gate_up_proj", "o_proj", "qkv_proj")),
    "gpt_neox": ("sdpa", ("query_key_value",)),
    "gpt2": ("sdpa", ("c_attn",)),
    "falcon": ("sdpa", ("query_key_value",)),
    "deepseek_v3": ("sdpa", LATENT),
    "qwen3": ("sdpa", ATTENTION_PROJECTIONS),
}
SELECTED = {
    # peft names the attention's layers, and one layer in four has attention.
    "nemotron_h": "LoRA on k_proj, o_proj, q_proj, v_proj in 1 of 4 layers",
    # Not the layers of a state-space layer whose weights alone are taken.
    "falcon_mamba": "LoRA on in_proj in 2 of 2 layers",
    "bamba": "LoRA on down_proj, gate_proj, in_proj, k_proj, o_proj, q_proj, up_proj, v_proj in 2 "
    "of 2 layers",
    # peft would take gate_proj, up_proj and down_proj for the experts.
    "qwen3_next": "LoRA on in_proj_ba, in_proj_qkvz, k_proj, o_proj, q_proj, shared_expert_gate, "
    "v_proj in 2 of 2 layers",
    # Not the router, a linear layer that gives a tuple.
    "llama4_text": "LoRA on down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj in 2 of "
    "2 layers",
    # Names such as '0' and '1' are those of the layers too, so these are named by their paths.
    "gemma3n_text": "in 3 of 3 layers",
}


@pytest.mark.parametrize("model_type", FOUND)
def test_a_model_is_loaded_and_adapted_by_default(model_type: str, tmp_path: Path) -> None:
    attention, targets = FOUND[model_type]
    base, source = tmp_path / "base", tmp_path / "source"
    base.mkdir()
    save_small_model(model_type, source)
    config = FLOAT.model_copy(update={"base": str(source)})
    prepare_base(base, config)
    assert load_model(base, config).config._attn_implementation == attention
    job = Job("m1", base, None, config, LoraConfig(), load_config("tiny").training, 0)
    reach = adapters.check(job)
    assert (reach.targets, reach.reached, reach.layers) == (targets, 2, 2)
    assert planned_reach(config, LoraConfig()) == reach
    model = adapters.start(job)
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    ends = {name.partition(".lora_")[0].rpartition(".")[2] for name in trained}
    assert ends == set(targets)
    model(torch.tensor([[3, 4, 5]])).logits.sum().backward()
    assert all(each.grad is not None for each in model.parameters() if each.requires_grad)


@pytest.mark.parametrize("model_type", SELECTED)
def test_what_an_adapter_cannot_serve_is_left_out(model_type: str) -> None:
    build = partial(small_model, model_type, 320)
    assert str(reach_of(build, LoraConfig())).endswith(SELECTED[model_type])


def images(**text: int) -> Any:
    """A decoder that has an encoder of images, with layers of the same names, beside it."""
    from transformers import AutoModelForCausalLM, Gemma3Config

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    config = Gemma3Config(
        text_config={**sizes, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 320, **text},
        vision_config={**sizes, "num_hidden_layers": 3, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
    )
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("wanted", ["auto", "all-linear"])
def test_an_encoder_of_images_is_not_adapted(wanted: Any) -> None:
    build = partial(images, num_hidden_layers=2)
    lora = LoraConfig(target_modules=wanted)
    reach = reach_of(build, lora)
    assert (reach.reached, reach.layers) == (2, 2)
    model = build()
    found = lora_targets.attached(model, lora_targets.peft_config(lora, reach.targets))
    assert len(found) == 2 * (2 if wanted == "auto" else 7)
    assert all("language_model" in name for name in found)


def test_the_embedded_model_is_adapted_as_before(job: Callable[..., Job], tmp_path: Path) -> None:
    reach = planned_reach(ModelConfig(), LoraConfig())
    assert reach is not None
    assert (reach.targets, reach.reached) == (ATTENTION_PROJECTIONS, 30)
    assert reach.layers == MODELS[EMBEDDED_MODEL].layers
    with noting() as notes:
        train_sft(tmp_path, job(), DIALOGUES, SFT)
    assert notes["lora"] == "LoRA on q_proj, v_proj in 2 of 2 layers"


def test_targets_that_a_model_lacks_are_refused_before_any_work() -> None:

    config = load_config("tiny", ["lora.target_modules=[query, v_proj, lm_head]"])
    expected = (
        "lora.target_modules = [query, v_proj, lm_head]: query, lm_head not among the linear "
        "layers of LlamaForCausalLM below its output, which are down_proj, gate_proj, k_proj, "
        "o_proj, q_proj, up_proj, v_proj; set some of these, 'auto' or 'all-linear'"
    )
    with pytest.raises(ConfigError) as refused:
        preflight.check(config)
    assert str(refused.value) == expected
    with pytest.raises(ConfigError, match=r"\[\]: none of the linear layers"):
        planned_reach(config.model, LoraConfig(target_modules=()))


def test_the_doctor_says_what_lora_reaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.commands.doctor_checks import trial_checks

    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    found = {check.what: check for check in trial_checks(load_config("tiny"))}
    assert found["lora"].found == "LoRA on q_proj, v_proj in 30 of 30 layers"
    (check,) = trial_checks(load_config("tiny", ["lora.target_modules=[query]"]))
    assert not check.ok
    assert "query not among the linear layers" in check.found
    assert check.fix == "change the setting that it names"


def test_a_part_of_the_layers_can_be_set(tiny_base: Path) -> None:
    one = LoraConfig(target_modules=("layers.1.self_attn.q_proj",))
    reach = lora_targets.reach_in(tiny_base, one)
    assert str(reach) == "LoRA on q_proj in 1 of 2 layers"
    with pytest.raises(ConfigError, match="auto"):
        load_config("tiny", ["lora.target_modules=everything"])


def test_what_is_no_causal_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(EngineError, match="is not a causal language model"):
        planned_reach(ModelConfig(base=str(tmp_path)), LoraConfig())


def test_the_plan_counts_the_layers_that_are_adapted(tmp_path: Path) -> None:
    everything = LoraConfig(target_modules="all-linear")
    assert tuple(planned_targets(ModelConfig(), LoraConfig())) == ATTENTION_PROJECTIONS
    assert len(planned_targets(ModelConfig(), everything)) == 7
    assert len(planned_targets(ModelConfig(base="ORG/NAME"), LoraConfig())) == 7
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert list(planned_targets(ModelConfig(base=str(tmp_path)), LoraConfig())) == ["c_attn"]
    assert planned_targets(ModelConfig(), LoraConfig(target_modules=("o_proj",))) == ("o_proj",)
