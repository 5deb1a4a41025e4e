"""Making a step's artefact in the SAGE home, here and now; no Prefect."""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from sage_core.config.engine import EngineConfig
from sage_core.config.model import ModelConfig
from sage_core.engines.base import Engine
from sage_core.execution import noting
from sage_core.steps import key
from sage_core.steps.base import Model, Step
from sage_core.steps.code import own_code
from sage_core.storage import ArtifactRef
from tasks.engines import accounting, engine_of
from tasks.home import sage_home, store
from tasks.memory import peaks
from tasks.progress import progress


@dataclass(frozen=True)
class HomeContext:
    """What a step is given in a SAGE home (:class:`sage_core.steps.base.Context`).

    Attributes:
        engines: the settings of the engines that may be asked for.
    """

    engines: tuple[EngineConfig, ...]
    work: Path

    def folder(self, ref: ArtifactRef) -> Path:
        return store().folder(ref)

    def engine(self, settings: EngineConfig, model: Model, config: ModelConfig) -> Engine:
        """
        Raises:
            ValueError: the settings are not among :attr:`engines`, so their code would be missing
                from the step's key.
        """
        if settings not in self.engines:
            raise ValueError(f"an engine of kind '{settings.kind}' is not among the step's engines")
        adapter = self.folder(model.adapter) if model.adapter else None
        return engine_of(settings, self.folder(model.base), config, adapter)

    def progress(
        self, description: str, total: int
    ) -> AbstractContextManager[Callable[[int], None]]:
        return progress(description, total)


def context_of(step: Step) -> HomeContext:
    """The context of one step. Its work folder is named by its key, so what is saved there belongs
    to these inputs and this code only."""
    return HomeContext(step.engines, sage_home() / "work" / key.path_of(step))


def make(step: Step, label: str = "") -> ArtifactRef:
    """The step's artefact: from the store if it is there whole, else made."""
    return store().find(key.path_of(step)) or build(step, label)


def build(step: Step, label: str) -> ArtifactRef:
    """Make the step's artefact, whether or not it is there. Its manifest says where it comes from
    and what it cost; ``label`` tells artefacts of the same kind of step apart."""
    context = context_of(step)
    manifest = {
        "stage": step.name,
        "label": label,
        "parents": key.parents(step),
        "config_hash": key.settings_hash(step),
        "code_hash": key.code_of(step),
        "own": own_code(key.named_by(step)),
        "seed": getattr(step, "seed", None),
    }

    def write(folder: Path) -> None:
        began = time.monotonic()
        with accounting() as usage, noting() as notes, peaks() as memory:
            step.run(folder, context)
        # Beside the files and not among them: times differ, and artefacts must not.
        manifest["cost"] = {
            "seconds": round(time.monotonic() - began, 3),
            "engines": usage,
            "usd": sum(engine["usd"] for engine in usage.values()),
            "memory": memory,
        }
        if notes:
            manifest["execution"] = notes

    ref = store().build(key.path_of(step), write, manifest)
    shutil.rmtree(context.work, ignore_errors=True)
    return ref


def build_in(home: str, step: Step, label: str, again: bool) -> ArtifactRef:
    """:func:`make` in a home that is given: on a worker of a cluster the environment does not name
    it. ``again``: make it even if it is there."""
    os.environ["SAGE_HOME"] = home
    return build(step, label) if again else make(step, label)
