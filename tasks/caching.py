"""Cached tasks whose results are artefact references, checked against their files.

A stage is a function ``(folder, **inputs)`` that fills a folder. Its cache key is the hash of its
name, of the inputs (references count by path and hash) and of the source of the ``sage_core``
modules it runs; Prefect's own default would never hit across runs, and its ``TASK_SOURCE`` does
not see imported modules. Prefect does not look whether a cached artefact is still there, so
:meth:`Stage.__call__` does: an artefact that is missing or changed is made again, and so is
everything that it feeds.
"""

import inspect
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prefect import Task, task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from pydantic import BaseModel

from sage_core.errors import ConfigError, DataError
from sage_core.storage import ArtifactRef, digest
from tasks.engines import accounting
from tasks.home import sage_home, store


@dataclass(frozen=True)
class Cached:
    """The reference of a stage, and whether this run found it in the cache."""

    ref: ArtifactRef
    hit: bool


class Stage:
    """A named, cached step of the pipeline that makes one artefact.

    Args:
        write: fills a folder from its keyword arguments, which are artefact references, frozen
            configuration sections and plain JSON values.
        modules: the modules of ``sage_core``, named within it, whose source counts in the key.
        retries: how often Prefect tries again after an error.
        resumable: ``write`` takes ``work`` as well, a folder that lasts until the artefact is
            made; what is saved there is found again after a kill. Its name holds the cache key, so
            it belongs to these inputs and this code only.
    """

    def __init__(
        self, write: Callable[..., None], modules: Sequence[str], retries: int, resumable: bool
    ) -> None:
        self.name = write.__name__.replace("_", "-")
        self._write = write
        self._modules = tuple(modules)
        self._resumable = resumable
        self._task: Task[..., ArtifactRef] = task(
            name=self.name,
            cache_policy=CacheKeyFnPolicy(
                cache_key_fn=lambda context, parameters: self.key(**parameters["inputs"])
            ),
            persist_result=True,
            result_serializer="json",
            retries=retries,
            retry_condition_fn=_worth_retrying,
            retry_delay_seconds=[10.0, 60.0, 300.0][:retries],
        )(self._run)

    def key(self, **inputs: Any) -> str:
        """The cache key for these inputs."""
        return digest(
            {
                "stage": self.name,
                "inputs": {name: _plain(value) for name, value in inputs.items()},
                "code": self.code_hash(),
            }
        )

    def code_hash(self) -> str:
        """SHA-256 over the source of this stage and of its modules."""
        sources = [inspect.getsource(self._write)]
        sources += [_source(module) for module in self._modules]
        return sha256("\0".join(sources).encode()).hexdigest()

    def __call__(self, label: str = "", /, **inputs: Any) -> ArtifactRef:
        """The artefact for these inputs: from the cache if it is whole, else made now.

        ``label`` tells task runs of the same stage apart in the UI.
        """
        run: Any = self._configured(label, inputs)
        state: State[ArtifactRef] = run(label, inputs, str(sage_home()), return_state=True)
        return self._checked(state, label, inputs)

    def local(self, label: str = "", /, **inputs: Any) -> ArtifactRef:
        """As :meth:`__call__`, without Prefect: from the store if it is there whole, else made."""
        found = store().find(self._path(inputs))
        return found or self._run(label, inputs, str(sage_home()))

    def map(
        self, inputs: Iterable[dict[str, Any]], labels: Iterable[str] | None = None
    ) -> list[ArtifactRef]:
        """As :meth:`__call__` for many inputs side by side, on the flow's task runner."""
        arguments_of = list(inputs)
        names = labels or [f"{n + 1}/{len(arguments_of)}" for n in range(len(arguments_of))]
        pairs = list(zip(names, arguments_of, strict=True))
        futures: list[PrefectFuture[ArtifactRef]] = [
            self._configured(label, arguments).submit(label, arguments, str(sage_home()))
            for label, arguments in pairs
        ]
        for future in futures:
            future.wait()
        return [
            self._checked(future.state, label, arguments)
            for future, (label, arguments) in zip(futures, pairs, strict=True)
        ]

    def _configured(self, label: str, inputs: dict[str, Any]) -> Task[..., ArtifactRef]:
        name = f"{self.name} {label}".strip()
        if any(ref in _remade for ref in _references(inputs)):
            return self._task.with_options(task_run_name=name, refresh_cache=True)
        return self._task.with_options(task_run_name=name)

    def _checked(
        self, state: State[ArtifactRef], label: str, inputs: dict[str, Any]
    ) -> ArtifactRef:
        ref = _as_ref(state.result())
        hit = state.name == "Cached"
        if hit and not store().verify(ref):
            refreshed = self._configured(label, inputs).with_options(refresh_cache=True)
            ref = _as_ref(refreshed(label, inputs, str(sage_home())))
            hit = False
            _remade.add(ref)
        elif not hit and any(parent in _remade for parent in _references(inputs)):
            _remade.add(ref)
        for listener in list(_listeners):
            listener(f"{self.name} {label}".strip(), Cached(ref, hit))
        return ref

    def _run(self, label: str, inputs: dict[str, Any], home: str) -> ArtifactRef:
        """Make the artefact; on a worker of a cluster the environment does not name the home."""
        os.environ["SAGE_HOME"] = home
        manifest = {
            "stage": self.name,
            "label": label,
            "parents": {
                name: [asdict(ref) for ref in _references({name: value})]
                for name, value in inputs.items()
                if _references({name: value})
            },
            "config_hash": digest(
                {
                    name: _plain(value)
                    for name, value in inputs.items()
                    if not _references({name: value})
                }
            ),
            "code_hash": self.code_hash(),
            "seed": inputs.get("seed"),
        }
        path = self._path(inputs)
        work = {"work": sage_home() / "work" / path} if self._resumable else {}

        def write(folder: Path) -> None:
            began = time.monotonic()
            with accounting() as usage:
                self._write(folder, **inputs, **work)
            # Beside the files and not among them: times differ, and artefacts must not.
            manifest["cost"] = {"seconds": round(time.monotonic() - began, 3), "engines": usage}

        ref = store().build(path, write, manifest)
        for folder in work.values():
            shutil.rmtree(folder, ignore_errors=True)
        return ref

    def _path(self, inputs: dict[str, Any]) -> str:
        return f"{self.name}/{self.key(**inputs)[:20]}"


def stage(
    *modules: str, retries: int = 0, resumable: bool = False
) -> Callable[[Callable[..., None]], Stage]:
    """Decorate a function that fills a folder; see :class:`Stage`."""
    return lambda write: Stage(write, modules, retries, resumable)


def listen(listener: Callable[[str, Cached], None]) -> None:
    """Call ``listener(name, cached)`` after every stage of this process."""
    _listeners.append(listener)


def forget_remade() -> None:
    """Start a new pipeline run: what was made again in an earlier one no longer matters."""
    _remade.clear()


_remade: set[ArtifactRef] = set()
_listeners: list[Callable[[str, Cached], None]] = []


def _worth_retrying(task: Any, run: Any, state: State[Any]) -> bool:
    """Wrong settings and wrong data stay wrong; servers and disks may come back."""
    try:
        state.result()
    except (ConfigError, DataError):
        return False
    except Exception:
        return True
    return False


def _as_ref(result: Any) -> ArtifactRef:
    """References come back from Prefect's JSON results as plain objects."""
    return result if isinstance(result, ArtifactRef) else ArtifactRef(**dict(result))


def _references(value: Any) -> list[ArtifactRef]:
    """All artefact references in nested inputs."""
    if isinstance(value, ArtifactRef):
        return [value]
    if isinstance(value, dict):
        return [ref for item in value.values() for ref in _references(item)]
    if isinstance(value, list | tuple):
        return [ref for item in value for ref in _references(item)]
    return []


def _plain(value: Any) -> Any:
    """Inputs as JSON values."""
    if isinstance(value, ArtifactRef):
        return asdict(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


@cache
def _source(module: str) -> str:
    """The source of a module of ``sage_core``, read without importing what it imports, or the
    content of a data file, given with its folder (``data/words.txt``)."""
    if "/" in module:
        return resources.files("sage_core").joinpath(module).read_text(encoding="utf-8")
    spec = find_spec(f"sage_core.{module}")
    if spec is None or spec.origin is None:
        raise ValueError(f"sage_core has no module '{module}'")
    return Path(spec.origin).read_text(encoding="utf-8")
