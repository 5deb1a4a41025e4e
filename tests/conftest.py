"""What tests of several folders share: a tiny random model with a real tokenizer and template."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from small_models import small_llama
from tokenizers_of_families import MIXTRAL, packaged_template

import sage_core  # noqa: F401 - before PyTorch: it sets how OpenMP's threads wait

# Workers of pytest-xdist share the cores; the processes that their tests start take this over.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

# A loaded machine is slow at random, which says nothing about the code.
settings.register_profile("sage", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sage")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that no worker is left with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


LINES = (
    "I waited an hour for the bus again! That must have been cold.",
    "{u_motivation: complaint, u_emotion: sad, u_topic: [bus, rain]} Oh no, what happened then?",
    "{a_motivation: sympathy, a_emotion: caring, a_topic: [bus]} My dog ran away last night.",
    "user assistant system Be my companion: caring, playful, honest about being an AI, and brief.",
)


def chat_tokenizer(template: str) -> Any:
    """A byte-level BPE tokenizer of a few hundred tokens with the packaged template (``chatml``) or
    Mixtral's (``mistral``)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(LINES, trainer)
    ends = {"chatml": ("<|im_start|>", "<|im_end|>"), "mistral": ("<s>", "</s>")}
    bos, eos = ends[template]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=bos,
        eos_token=eos,
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>", "<s>", "</s>"],
    )
    tokenizer.chat_template = MIXTRAL if template == "mistral" else packaged_template(template)
    return tokenizer


@pytest.fixture(scope="session")
def chatml_tokenizer() -> Any:
    return chat_tokenizer("chatml")


@pytest.fixture(scope="session")
def mistral_tokenizer() -> Any:
    return chat_tokenizer("mistral")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory, chatml_tokenizer: Any) -> Path:
    """A base folder: two Llama layers with random weights wide enough to give varied text, and
    with replies that end after some thirty tokens."""
    import torch

    folder = tmp_path_factory.mktemp("tiny")
    model = small_llama(chatml_tokenizer)
    with torch.no_grad():
        model.lm_head.weight[chatml_tokenizer.eos_token_id] *= 1.6
    model.save_pretrained(folder)
    chatml_tokenizer.save_pretrained(folder)
    record = {"base": "tiny", "weights": "."}
    (folder / "base.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Path:
    """A SAGE home as a run leaves it, with m0 (``model.base=tiny``) and an untrained m1."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from sage_core.storage import ArtifactStore

    home = tmp_path_factory.mktemp("home")
    store = ArtifactStore(home / "artifacts")
    base = store.build(
        "base-model/0",
        lambda folder: shutil.copytree(tiny_base, folder, dirs_exist_ok=True),
        {"stage": "base-model", "label": "m0", "parents": {}},
    )
    torch.manual_seed(0)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_base),
        LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    store.build(
        "sft/0",
        lambda folder: adapted.save_pretrained(folder, save_embedding_layers=False),
        {"stage": "sft", "label": "m1", "parents": {"base": [asdict(base)]}},
    )
    return home
