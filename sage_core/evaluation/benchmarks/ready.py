"""Which benchmarks can be run here, found before anything is asked."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from sage_core.config.benchmarks import BenchmarksConfig
from sage_core.errors import ConfigError, DataError, SageError
from sage_core.evaluation.benchmarks import BENCHMARKS, files, harness
from sage_core.evaluation.benchmarks.models import check_engine


@dataclass(frozen=True)
class Ready:
    """Benchmarks that can be run.

    Attributes:
        sources: benchmark -> the hash of its files; '' = from the hub.
        left_out: benchmark -> what is missing for it.
        harness: the version of lm-eval.
    """

    sources: dict[str, str]
    left_out: dict[str, str]
    harness: str


def ready(settings: BenchmarksConfig) -> Ready:
    """Which of the chosen benchmarks can be run.

    Raises:
        ConfigError, DataError: something is missing and ``benchmarks.if_missing`` is 'error'.
    """
    sources: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for task in settings.chosen:
        try:
            harness.check_installed()
            sources[task] = _source(settings, task)
        except (ConfigError, DataError) as error:
            if settings.if_missing == "error":
                raise
            left_out[task] = str(error)
    return Ready(sources, left_out, harness.version())


def check(settings: BenchmarksConfig) -> None:
    """Check before a run that the chosen benchmarks can be run, and that their files are of the
    version that lm-eval's definitions need.

    Raises:
        ConfigError: all problems, in one message. Files that are missing are one only where
            ``benchmarks.if_missing`` is 'error'; files of another version always are.
    """
    if not settings.tasks:
        return
    check_engine(settings.engine)
    problems = []
    with TemporaryDirectory() as scratch:
        for task in ready(settings).sources:
            try:
                _read(settings, task, Path(scratch) / task)
            except SageError as error:
                problems.append(str(error))
    if problems:
        raise ConfigError("; ".join(problems))


def _source(settings: BenchmarksConfig, task: str) -> str:
    benchmark = BENCHMARKS.load(task)
    if settings.source == "local":
        return files.source_hash(files.locate(settings, task, benchmark, harness.parts(benchmark)))
    if not benchmark.hub:
        raise DataError(
            f"benchmark '{task}' is not on the hub in lm-eval's form; set benchmarks.source=local "
            f"and benchmarks.files={{{task}: FILE}}"
        )
    return ""


def _read(settings: BenchmarksConfig, task: str, folder: Path) -> None:
    if settings.source == "local":
        benchmark = BENCHMARKS.load(task)
        files.prepare(
            benchmark, files.locate(settings, task, benchmark, harness.parts(benchmark)), folder
        )
