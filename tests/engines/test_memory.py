"""Models are out of memory before a managed server starts and before training does.

Real models and a real sub-process in place of vLLM; what cannot be seen without a GPU is that CUDA
gives the memory back, so a weak reference to the model has to be dead."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import ReferenceType, ref

import pytest
import torch
from training_examples import DIALOGUES, DPO, FLOAT, PAIRS, SFT

from sage_core.config.engine import SamplingConfig, VllmConfig
from sage_core.config.training import LauncherConfig, LoraConfig
from sage_core.config.training import TrainingConfig as Training
from sage_core.engines import loaded_model as holding
from sage_core.engines import managed_vllm, memory, supervisor
from sage_core.engines.base import Request
from sage_core.engines.in_process import TransformersEngine
from sage_core.engines.loaded_model import loaded_model
from sage_core.engines.vllm_server import VllmServer
from sage_core.schema import Message
from sage_core.search.selectors import reward_model
from sage_core.training import adapters, launch
from sage_core.training.dpo import train_dpo
from sage_core.training.job import Job
from sage_core.training.sft import train_sft

STAND_IN = """#!{python}
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
REQUEST = Request("r", (Message("user", "hi"),), SamplingConfig(max_new_tokens=2), seed=0)


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(supervisor, "GRACE_S", 0.3)
    memory.release()
    yield
    memory.release()


@pytest.fixture
def start(tmp_path: Path, tiny_base: Path) -> Callable[[], managed_vllm.VllmEngine]:
    """Starts the server that stands in for vLLM, where none runs."""
    python = tmp_path / "environment" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(STAND_IN.format(python=sys.executable))
    python.chmod(0o755)
    settings = VllmConfig(vllm_python=python)
    return lambda: managed_vllm.engine(settings, tiny_base, None, FLOAT, tmp_path / "logs")


def used(base: Path, adapter: Path | None = None) -> "ReferenceType[Any]":
    """The model of an engine that was used and is no longer referred to."""
    engine = TransformersEngine(base, adapter, FLOAT)
    engine.generate([REQUEST])
    return ref(loaded_model(base, FLOAT).model)


def job(base: Path, parent: Path | None = None, launcher: LauncherConfig | None = None) -> Job:
    training = Training(launcher=launcher)
    return Job("m", base, parent, FLOAT, LoraConfig(rank=2), training, 0)


def at(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, look: Callable[[], object]
) -> list[object]:
    """What ``look`` saw each time that ``owner.name`` was called, right before."""
    seen: list[object] = []
    original = getattr(owner, name)

    def looking(*arguments: Any, **more: Any) -> Any:
        seen.append(look())
        return original(*arguments, **more)

    monkeypatch.setattr(owner, name, looking)
    return seen


def test_a_used_model_is_gone_before_the_server_starts(
    tiny_base: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = used(tiny_base)
    assert model() is not None  # kept for the next stage
    seen = at(monkeypatch, VllmServer, "__enter__", model)
    start()
    start()  # runs already
    assert seen == [None]


def test_a_reward_model_is_gone_before_the_server_starts(
    tiny_base: Path, tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    folder = tmp_path / "reward"
    tokenizer.save_pretrained(folder)
    settings = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, num_labels=1, pad_token_id=0,
    )  # fmt: skip
    LlamaForSequenceClassification(settings).save_pretrained(folder)
    reward_model.load_reward_model(folder, "cpu")("Hello.", ())
    model = ref(reward_model._reward_model(folder, "cpu")[1])
    assert model() is not None
    seen = at(monkeypatch, VllmServer, "__enter__", model)
    start()
    assert seen == [None]


def test_training_starts_without_models_and_without_the_server(
    tiny_base: Path, tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of SFT and DPO in this process; and what they trained is gone before the next server."""
    trained: list[ReferenceType[Any]] = []
    original = adapters.start

    def begin(of: Job) -> Any:
        assert model() is None
        assert not server.alive()
        found = original(of)
        trained.append(ref(found))
        return found

    monkeypatch.setattr(adapters, "start", begin)
    for name in ("m1", "dpo"):
        (tmp_path / name).mkdir()
    server, model = start()._server, used(tiny_base)
    train_sft(tmp_path / "m1", job(tiny_base), DIALOGUES, SFT)
    server, model = start()._server, used(tiny_base, tmp_path / "m1")
    train_dpo(tmp_path / "dpo", job(tiny_base, tmp_path / "m1"), PAIRS, DPO)
    seen = at(monkeypatch, VllmServer, "__enter__", lambda: [each() for each in trained])
    start()
    assert seen == [[None, None]]


def test_a_launcher_starts_without_models_and_without_the_server(
    tiny_base: Path, tmp_path: Path, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    train_sft(parent, job(tiny_base), DIALOGUES, SFT)
    server, model = start()._server, used(tiny_base)
    seen: list[object] = []
    monkeypatch.setattr(launch, "_run", lambda *_: seen.append((model(), server.alive())))
    two = LauncherConfig(processes=2)
    train_sft(tmp_path / "m1", job(tiny_base, launcher=two), DIALOGUES, SFT)
    train_dpo(tmp_path / "dpo", job(tiny_base, parent, two), PAIRS, DPO)
    assert seen == [(None, False), (None, False)]


def test_a_model_in_use_is_never_loaded_twice(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = at(monkeypatch, holding, "load_model", lambda: tiny_base)
    engine = TransformersEngine(tiny_base, None, FLOAT)
    memory.release()
    model = ref(loaded_model(tiny_base, FLOAT).model)
    other = TransformersEngine(tiny_base, None, FLOAT)
    assert other.generate([REQUEST]) == engine.generate([REQUEST])
    assert loads == [tiny_base]
    del engine, other
    memory.release()
    assert model() is None


def test_cuda_gives_its_memory_back_where_it_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    emptied = at(monkeypatch, torch.cuda, "empty_cache", lambda: True)
    memory.release()
    assert emptied == []  # no context is made for nothing
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    memory.release()
    assert emptied == [True]
