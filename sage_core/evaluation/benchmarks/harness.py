"""lm-eval (Gao et al. 2024), which asks and scores all benchmarks; its only importer with
:mod:`sage_core.evaluation.benchmarks.models`.

Each benchmark has lm-eval's own definition: ours includes it and replaces the data by local files.
So prompts, number of examples, filters, metrics and standard errors are lm-eval's, and a figure is
the one that ``lm_eval`` gives by hand with the same files and limit. As its command line does, no
chat template is applied.
"""

from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from io import StringIO
from math import ceil
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import yaml

from sage_core.errors import ConfigError
from sage_core.evaluation.benchmarks.benchmark import Benchmark
from sage_core.evaluation.benchmarks.files import Prepared
from sage_core.schema import BenchmarkDocument

if TYPE_CHECKING:
    from lm_eval.api.model import LM

PACKAGE = "lm_eval"
_one_at_a_time = Lock()  # stages that ask a server run side by side


@dataclass(frozen=True)
class Score:
    """One figure.

    Attributes:
        task: lm-eval's name of the benchmark.
        metric: lm-eval's name of the metric, with the filter that found the answer where there are
            several (strict and flexible match).
        value: a share, except EQ-Bench's points of 100.
        stderr: lm-eval's standard error; None where it has none.
        n: documents asked.
        version: of lm-eval's definition; '' where it states none.
        split: that the documents are from.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    n: int
    version: str
    split: str


def version() -> str:
    """The version of lm-eval; '' where it is not installed."""
    return metadata.version(PACKAGE) if find_spec(PACKAGE) else ""


def check_installed() -> None:
    """Check that lm-eval is here.

    Raises:
        ConfigError: it is not.
    """
    if not find_spec(PACKAGE):
        raise ConfigError(
            "benchmarks need the package lm-eval: run `make setup-lm-eval`, or pip install "
            "'sage-dialogue[benchmarks]'"
        )


def parts(benchmark: Benchmark) -> tuple[str, ...]:
    """The parts of a benchmark, such as MMLU's subjects; of one without parts, its own name."""
    if not benchmark.has_parts:
        return (benchmark.task,)
    folder, _, pattern = benchmark.shipped.rpartition("/")
    start = pattern.partition("*")[0]
    return tuple(
        sorted(file.stem.removeprefix(start) for file in (definitions() / folder).glob(pattern))
    )


def evaluate(
    benchmark: Benchmark,
    prepared: Prepared | None,
    model: "LM",
    name: str,
    limit: int,
    folder: Path,
) -> tuple[list[Score], list[BenchmarkDocument]]:
    """Ask a model a benchmark's first ``limit`` documents (0 = all), or with parts as many of each
    part that there are ``limit`` or a few more.

    Args:
        name: of the model.
        prepared: local files; None = lm-eval fetches them from the hub.
        folder: takes the definitions.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    parts_asked = _define(benchmark, prepared, folder)
    each = ceil(limit / len(parts_asked)) if limit else None
    # It sets seeds of the whole process, and its progress and its remarks are not ours.
    with _one_at_a_time, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        found = simple_evaluate(
            model=model,
            tasks=[benchmark.task],
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            limit=each,
            log_samples=True,
        )
    split = benchmark.local.split if prepared else benchmark.hub
    return _scores(benchmark, found, split), _documents(name, benchmark, found["samples"])


def definitions() -> Path:
    """The folder of lm-eval's own definitions."""
    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations))) / "tasks"


def _define(benchmark: Benchmark, prepared: Prepared | None, folder: Path) -> list[str]:
    """Write the definitions of a benchmark and its parts; the names of the parts."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for part in parts(benchmark):
        name = f"{benchmark.task}_{part}" if benchmark.has_parts else benchmark.task
        shipped = benchmark.shipped.replace("*", part)
        definition: dict[str, Any] = {**benchmark.definition, "task": name}
        if shipped:
            definition = {"include": str(definitions() / shipped), **definition}
        if prepared:
            definition |= _data(benchmark, prepared.files[part], folder / "cache")
        _write(folder / f"{name}.yaml", definition)
        names.append(name)
    if benchmark.has_parts:
        metric = {"metric": benchmark.metric, "weight_by_size": True}
        _write(
            folder / f"{benchmark.task}.yaml",
            {
                "group": benchmark.task,
                "task": names,
                "aggregate_metric_list": [metric],
                "metadata": {"version": benchmark.version},
            },
        )
    return names


def _data(benchmark: Benchmark, files: Mapping[str, Path], cache: Path) -> dict[str, Any]:
    """The keys of a definition that name local files. Examples come from the documents themselves,
    each document's own left out, where their split is not given."""
    fewshot = benchmark.fewshot.split if benchmark.fewshot else None
    if fewshot not in files:
        fewshot = benchmark.local.split if fewshot else None
    return {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {
            "data_files": {split: str(file) for split, file in files.items()},
            "cache_dir": str(cache),
        },
        "training_split": None,
        "validation_split": None,
        "test_split": benchmark.local.split,
        "fewshot_split": fewshot,
    }


def _write(path: Path, definition: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(dict(definition), sort_keys=False), encoding="utf-8")


def _scores(benchmark: Benchmark, found: Mapping[str, Any], split: str) -> list[Score]:
    results = found["groups" if benchmark.has_parts else "results"][benchmark.task]
    counts: Mapping[str, Mapping[str, int]] = found["n-samples"]
    stated = found["versions"].get(benchmark.task)
    scores = []
    for key, value in sorted(results.items()):
        metric, _, chosen = key.partition(",")
        if not chosen or metric.endswith("_stderr"):
            continue
        error = results.get(f"{metric}_stderr,{chosen}")
        scores.append(
            Score(
                task=benchmark.task,
                metric=_metric(metric, chosen),
                value=float(value),
                stderr=float(error) if isinstance(error, int | float) else None,
                n=sum(each["effective"] for each in counts.values()),
                version="" if stated in (None, "N/A", "Yaml") else str(stated),
                split=split,
            )
        )
    return scores


def _documents(
    model: str, benchmark: Benchmark, samples: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[BenchmarkDocument]:
    """Each document's value of each metric, so that models can be compared on the same ones."""
    return [
        BenchmarkDocument(
            model=model,
            task=benchmark.task,
            document=f"{name}/{sample['doc_id']}",
            hash=sample["doc_hash"],
            metric=_metric(metric, sample["filter"]),
            value=float(sample[metric]),
        )
        for name, each in sorted(samples.items())
        for sample in each
        for metric in sample["metrics"]
    ]


def _metric(name: str, chosen: str) -> str:
    return name if chosen == "none" else f"{name},{chosen}"
