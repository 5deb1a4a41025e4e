"""What a step is, what it is made of, and what whoever runs it gives it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from sage_core.config.engine import EngineConfig
from sage_core.config.model import ModelConfig
from sage_core.named import Named
from sage_core.storage import ArtifactRef

if TYPE_CHECKING:
    from sage_core.engines.base import Engine

WITHOUT_STATES = ("m0", "raw")
"""The models that reply in words alone; all others speak State-Action Chains."""


def writes_states(model: str) -> bool:
    """Whether the model of that name speaks State-Action Chains."""
    return model not in WITHOUT_STATES


@dataclass(frozen=True)
class Model:
    """A model of the run: m0 itself, or a checkpoint over it.

    Attributes:
        name: m0, raw, m1, m2, ..., dpo.
        base: the base folder of m0.
        adapter: the checkpoint; None for m0.
    """

    name: str
    base: ArtifactRef
    adapter: ArtifactRef | None = None

    @property
    def states(self) -> bool:
        """Whether it speaks State-Action Chains."""
        return writes_states(self.name)

    @property
    def m0(self) -> "Model":
        """The model that it was trained from in the first place."""
        return Model("m0", self.base)


class Context(Protocol):
    """What a step is given by whoever runs it."""

    @property
    def work(self) -> Path:
        """A folder of the step's own, which may not exist yet. It lasts until the artefact is made,
        so a step that was killed finds there what it saved."""
        ...

    def folder(self, ref: ArtifactRef) -> Path:
        """The folder of an artefact."""
        ...

    def engine(self, settings: EngineConfig, model: Model, config: ModelConfig) -> "Engine":
        """An engine for ``model``; ``settings`` are among the step's :attr:`Step.engines`."""
        ...

    def progress(
        self, description: str, total: int
    ) -> AbstractContextManager[Callable[[int], None]]:
        """Shows progress; to be called with the units, of ``total``, that were just done."""
        ...


@dataclass(frozen=True, kw_only=True)
class Step:
    """One artefact to be made; see the package.

    Attributes:
        name: the kind of step, part of the key and of the artefact's path.
        retries: how often an error other than wrong settings or data is worth another try.
    """

    name: ClassVar[str]
    retries: ClassVar[int] = 0

    @property
    def engines(self) -> tuple[EngineConfig, ...]:
        """The settings of all engines that it asks; their code is part of its key."""
        return ()

    @property
    def named(self) -> tuple[Named, ...]:
        """What its settings name and it loads by name; the code of these is part of its key."""
        return ()

    def run(self, folder: Path, context: Context) -> None:
        """Fill the empty ``folder`` with the artefact's files."""
        raise NotImplementedError
