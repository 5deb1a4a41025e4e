"""What a step is given in a plan: placeholder artefacts, and engines that count."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from sage_core.config.engine import EngineConfig
from sage_core.config.model import ModelConfig
from sage_core.planning.counting import CountingEngine, Text
from sage_core.steps.base import Model, Step
from sage_core.storage import ArtifactRef, read_rows, write_rows


@dataclass(frozen=True)
class Run:
    """A step that was run: what it made, and the engines that it asked, in their order."""

    made: ArtifactRef
    engines: list[CountingEngine]


@dataclass(frozen=True)
class Placeholders:
    """A store of placeholder artefacts below ``root``, and a runner of steps on them."""

    root: Path
    text: Text
    max_context: int

    def table(self, name: str, rows: Sequence[Any]) -> ArtifactRef:
        """An artefact with one table of one or more ``rows``."""
        ref = self._new("placeholder")
        write_rows(self.root / ref.path / name, rows, type(rows[0]))
        return ref

    def rows(self, ref: ArtifactRef, name: str, row_type: type[Any]) -> list[Any]:
        """The rows of an artefact's table."""
        return read_rows(self.root / ref.path / name, row_type)

    def run(self, step: Step, *reply_tokens: float) -> Run:
        """Run a step; ``reply_tokens`` are of the engines that it asks, in their order."""
        ref = self._new(step.name)
        context = _Context(self, self.root / f"{ref.path}-work", list(reply_tokens))
        step.run(self.root / ref.path, context)
        return Run(ref, context.engines)

    def _new(self, name: str) -> ArtifactRef:
        ref = ArtifactRef(f"{name}-{uuid4().hex}", "", 0)
        (self.root / ref.path).mkdir()
        return ref


@dataclass(frozen=True)
class _Context:
    """Of one step; see :class:`sage_core.steps.base.Context`."""

    store: Placeholders
    work: Path
    reply_tokens: list[float]
    engines: list[CountingEngine] = field(default_factory=list)

    def folder(self, ref: ArtifactRef) -> Path:
        return self.store.root / ref.path

    def engine(self, settings: EngineConfig, model: Model, config: ModelConfig) -> CountingEngine:
        tokens = self.reply_tokens[len(self.engines)]
        self.engines.append(CountingEngine(self.store.text, self.store.max_context, tokens))
        return self.engines[-1]

    def progress(
        self, description: str, total: int
    ) -> AbstractContextManager[Callable[[int], None]]:
        return nullcontext(lambda count: None)
