"""Small random models of many architectures, built offline from transformers' configurations.

Weights are random and wide, with biases that are not zero, so that every part of a model matters:
one that is left out or leaks changes the result.
"""

from pathlib import Path
from typing import Any

from sage_core.packaged import packaged

_LINES = (
    "I waited an hour for the bus again! That must have been cold.",
    "{u_motivation: complaint, u_emotion: sad, u_topic: [bus, rain]} Oh no, what happened then?",
    "{a_motivation: sympathy, a_emotion: caring, a_topic: [bus]} My dog ran away last night.",
    "user assistant system Be my companion: caring, playful, honest about being an AI, and brief.",
)

_SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "n_embd": 32,
    "d_model": 32,
    "n_layer": 2,
    "n_layers": 2,
    "num_layers": 2,
    "num_hidden_layers": 2,
    "n_head": 4,
    "n_heads": 4,
    "num_heads": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "ffn_dim": 48,
    "ffn_hidden_size": 48,
    "n_inner": 48,
    "max_position_embeddings": 512,
    "n_positions": 512,
    "max_seq_len": 512,
    "sliding_window": 16,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "qk_head_dim": 16,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
    "tie_word_embeddings": False,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
    "use_mamba_kernels": False,
}
"""Sizes by the names that configuration classes use; each class takes those that it has."""

_LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
_MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_expand": 2,
}
_LATENT = {"num_key_value_heads": 4}
_SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}

MODELS: dict[str, dict[str, Any]] = {
    "afmoe": {},
    "apertus": {},
    "arcee": {},
    "bamba": {**_MAMBA, "attn_layer_indices": [1]},
    "bitnet": {},
    "bloom": {},
    "codegen": {"rotary_dim": 4},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {**_SLIDING, "logit_scale": 0.25},
    "cwm": _SLIDING,
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "diffllama": {},
    "doge": {},
    "dots1": {},
    "ernie4_5": {},
    "ernie4_5_moe": {},
    "exaone4": _SLIDING,
    "exaone_moe": {},
    "falcon": {"new_decoder_architecture": False},
    "falcon_h1": {**_MAMBA, "mamba_d_ssm": 64},
    "falcon_mamba": {"state_size": 8},
    "flex_olmo": {},
    "gemma": {},
    "gemma2": _SLIDING,
    "gemma3_text": _SLIDING,
    "gemma3n_text": {
        **_SLIDING,
        "num_kv_shared_layers": 0,
        "laurel_rank": 4,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 320,
        "activation_sparsity_pattern": [0.0, 0.0],
    },
    "gemma4_text": {
        **_SLIDING,
        "global_head_dim": 8,
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 320,
    },
    "glm": {},
    "glm4": {},
    "glm4_moe": {},
    "glm4_moe_lite": _LATENT,
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "gpt_neox": {},
    "gpt_oss": _SLIDING,
    "gptj": {"rotary_dim": 4},
    "granite": {"logits_scaling": 4.0},
    "granitemoe": {},
    "granitemoehybrid": {**_MAMBA, "layer_types": ["mamba", "attention"]},
    "granitemoeshared": {"shared_intermediate_size": 16},
    "helium": {},
    "hunyuan_v1_dense": {},
    "hunyuan_v1_moe": {},
    "hyperclovax": {},
    "jais2": {},
    "jamba": {
        "attn_layer_offset": 1,
        "attn_layer_period": 2,
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
    },
    "jetmoe": {"kv_channels": 8, "num_key_value_heads": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"], "block_multiple_of": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "llama": {},
    "llama4_text": {"attention_chunk_size": 16, "intermediate_size_mlp": 48},
    "mamba": {"state_size": 8},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1},
    "minicpm3": _LATENT,
    "minimax": {"layer_types": ["linear_attention", "full_attention"], "block_size": 8},
    "minimax_m2": {},
    "ministral": _SLIDING,
    "ministral3": {},
    "mistral": {},
    "mixtral": {"sliding_window": None},
    "modernbert-decoder": {},
    "mpt": {"expansion_ratio": 2},
    "nanochat": {},
    "nemotron": {},
    "nemotron_h": {"mamba_num_heads": 8, "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 1},
    "olmo": {},
    "olmo2": {},
    "olmo3": _SLIDING,
    "olmo_hybrid": {},
    "olmoe": {},
    "opt": {"word_embed_proj_dim": 32},
    "persimmon": {},
    "phi": {},
    "phi3": {},
    "phimoe": {"lm_head_bias": True},
    "qwen2": {},
    "qwen2_moe": {},
    "qwen3": {},
    "qwen3_5_text": _LINEAR,
    "qwen3_5_moe_text": _LINEAR,
    "qwen3_moe": {},
    "qwen3_next": _LINEAR,
    "recurrent_gemma": {
        "block_types": ["recurrent", "attention"],
        "lru_width": 32,
        "attention_window_size": 16,
    },
    "rwkv": {"attention_hidden_size": 32},
    "seed_oss": {},
    "smollm3": {},
    "solar_open": {},
    "stablelm": {},
    "starcoder2": {},
    "vaultgemma": _SLIDING,
    "xglm": {"attention_heads": 4},
    "youtu": _LATENT,
    "zamba": {
        "layer_types": ["linear_attention", "hybrid"],
        "mamba_d_state": 8,
        "mamba_dt_rank": 4,
        "n_mamba_heads": 2,
        "attention_head_dim": 16,
        "num_key_value_heads": 4,
    },
}
"""``model_type`` -> what its configuration needs besides the sizes. Where an architecture has
several kinds of layers, there is one of each."""


def small_model(model_type: str, vocabulary: int) -> Any:
    """A random model in float32, eval mode."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    kind: Any = CONFIG_MAPPING[model_type]
    known = kind()
    sizes = {name: value for name, value in _SMALL.items() if name in vars(known)}
    special = {"vocab_size": vocabulary, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = kind(**{**sizes, **special, **MODELS[model_type]})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "A_log" in name or not parameter.is_floating_point():
                continue
            if parameter.dim() >= 2:
                parameter.normal_(std=1.3 / parameter.shape[-1] ** 0.5)
            elif name.endswith("bias") and "dt" not in name:
                parameter.normal_(std=0.3)
    return model


def chatml_tokenizer() -> Any:
    """A byte-level BPE tokenizer of 320 tokens under ChatML."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_LINES, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    tokenizer.chat_template = packaged("templates/chatml.jinja")
    return tokenizer


def save_small_model(model_type: str, folder: Path) -> None:
    """A random model and its tokenizer as a folder that ``model.base`` takes."""
    tokenizer = chatml_tokenizer()
    small_model(model_type, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
