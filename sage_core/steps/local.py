"""Steps on this machine, without a SAGE home: one of them, or those of a corpus in a pool of
processes. Their artefacts are folders, which are neither hashed nor found again.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sage_core.config.corpus import CorpusConfig
from sage_core.config.engine import EngineConfig
from sage_core.config.model import ModelConfig
from sage_core.corpus.build import load_funnel
from sage_core.corpus.records import FunnelStep
from sage_core.corpus.sources import check_output
from sage_core.errors import DataError
from sage_core.steps.base import Model, Step
from sage_core.steps.whole_corpus import make_corpus
from sage_core.storage import ArtifactRef

if TYPE_CHECKING:
    from sage_core.engines.base import Engine


def build_corpus(config: CorpusConfig, output: Path, processes: int = 1) -> list[FunnelStep]:
    """The whole corpus; fills ``output`` and returns its funnel. The files do not depend on the
    number of processes.

    Raises:
        ConfigError, DataError: as :func:`make_corpus`, and :func:`check_output`.
    """
    check_output(config, output)
    output.mkdir(parents=True, exist_ok=True)
    # Forked processes would inherit the threads of pyarrow and DuckDB.
    with (
        TemporaryDirectory(dir=output, prefix=".building-") as scratch,
        ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool,
    ):
        maker = _Pool(Path(scratch), pool, processes)
        for path in maker.folder(make_corpus(config, maker)).iterdir():
            path.replace(output / path.name)
    return load_funnel(output)


def run_step(step: Step, folder: Path) -> None:
    """Run one step into ``folder``, which is made and must not hold anything. What the step takes
    is given as :func:`ref_of` its folder.

    Raises:
        DataError: the folder is not empty, or what the step takes is not as it should be.
        ConfigError, EngineError: the settings cannot be used, or a model fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise DataError(f"'{folder}' is not empty; give a new folder")
    with TemporaryDirectory(prefix="sage-step-") as scratch:
        step.run(folder, _Context(Path(scratch)))


def ref_of(folder: Path) -> ArtifactRef:
    """A folder as what :func:`run_step` gives a step."""
    return ArtifactRef(str(folder.resolve()), "", 0)


@dataclass(frozen=True)
class _Pool:
    """Runs steps side by side; see :class:`sage_core.steps.whole_corpus.Maker`."""

    root: Path
    pool: Executor
    processes: int
    numbers: Iterator[int] = field(default_factory=count)

    def make(self, step: Step) -> ArtifactRef:
        return self.make_all([step])[0]

    def make_all(self, steps: Sequence[Step]) -> list[ArtifactRef]:
        refs = [ArtifactRef(f"{step.name}-{next(self.numbers)}", "", 0) for step in steps]
        alone = self.processes == 1 or len(steps) == 1
        run = map if alone else self.pool.map
        list(run(_run, [self.root] * len(steps), steps, refs))
        return refs

    def folder(self, ref: ArtifactRef) -> Path:
        return self.root / ref.path

    def source_hash(self, path: Path | None) -> str:
        return ""  # nothing is looked up later


@dataclass(frozen=True)
class _Context:
    """What the steps are given (:class:`sage_core.steps.base.Context`)."""

    root: Path

    @property
    def work(self) -> Path:
        return self.root / "work"

    def folder(self, ref: ArtifactRef) -> Path:
        return self.root / ref.path

    def engine(self, settings: EngineConfig, model: Model, config: ModelConfig) -> "Engine":
        from sage_core.engines.opening import open_engine

        adapter = self.folder(model.adapter) if model.adapter else None
        return open_engine(settings, self.folder(model.base), config, adapter, self.root)

    @contextmanager
    def progress(self, description: str, total: int) -> Iterator[Callable[[int], None]]:
        yield lambda done: None


def _run(root: Path, step: Step, ref: ArtifactRef) -> None:
    folder = root / ref.path
    folder.mkdir()
    step.run(folder, _Context(root))
