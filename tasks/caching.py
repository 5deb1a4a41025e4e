"""Steps as cached Prefect tasks whose results are artefact references, checked against their files.

Within a flow, one task runs any step. Its cache key is the step's (:mod:`sage_core.steps.key`):
Prefect's own default would never hit across runs, and its ``TASK_SOURCE`` does not see imported
modules. Prefect does not look whether a cached artefact is still there, so :func:`make` does: an
artefact that is missing or changed is made again, and so is everything that it feeds. Outside a
flow the store alone is the cache (:mod:`tasks.making`).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from prefect import Task, get_run_logger, task
from prefect.cache_policies import CacheKeyFnPolicy
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture

from sage_core.errors import AnswersError, ConfigError, DataError
from sage_core.steps.base import Step
from sage_core.steps.key import key, references
from sage_core.storage import MANIFEST, ArtifactRef
from tasks import making
from tasks.home import sage_home, store

_DELAYS_S = (10.0, 60.0, 300.0)


@dataclass(frozen=True)
class Cached:
    """The reference of a step, and whether this run found it in the cache."""

    ref: ArtifactRef
    hit: bool


def make(step: Step, label: str = "") -> ArtifactRef:
    """The step's artefact: from the cache if it is whole, else made now.

    ``label`` tells task runs of the same kind of step apart in the UI.
    """
    if FlowRunContext.get() is None:
        return making.make(step, label)
    began = time.time()
    return _checked(_run(step, label, again=_feeds_on_remade(step)), step, label, began)


def make_all(steps: Sequence[Step], labels: Iterable[str] = ()) -> list[ArtifactRef]:
    """:func:`make` for many steps. Those that ask a model in this process, or on a server that a
    process of ours starts, go one at a time, since their parallelism is the batch; all others side
    by side on the flow's task runner."""
    names = list(labels) or [f"{n + 1}/{len(steps)}" for n in range(len(steps))]
    pairs = list(zip(steps, names, strict=True))
    in_flow = FlowRunContext.get() is not None
    if not in_flow or any(engine.traits.runs_here for step in steps for engine in step.engines):
        return [make(step, name) for step, name in pairs]
    began = time.time()
    futures: list[PrefectFuture[ArtifactRef]] = []
    for step, name in pairs:
        again = _feeds_on_remade(step)
        run = _configured(step, name, again=again)
        futures.append(run.submit(str(sage_home()), step, name, again, wait_for=_made_by(step)))
    for future in futures:
        future.wait()
    return [
        _checked(future.state, step, name, began)
        for future, (step, name) in zip(futures, pairs, strict=True)
    ]


@contextmanager
def listening(listener: Callable[[str, Cached], None]) -> Iterator[None]:
    """Call ``listener(name, cached)`` after every step that this process makes or finds within."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def forget_remade() -> None:
    """Start a new pipeline run: what was made again in an earlier one no longer matters."""
    _remade.clear()
    _states.clear()


_remade: set[ArtifactRef] = set()
_states: dict[ArtifactRef, State[Any]] = {}  # who made it in this run: the edges of the run graph
_listeners: list[Callable[[str, Cached], None]] = []


def _worth_retrying(task: Any, run: Any, state: State[Any]) -> bool:
    """Wrong settings and data stay wrong, and a model's answers the same; servers and disks may
    come back."""
    try:
        state.result()
    except (AnswersError, ConfigError, DataError):
        return False
    except Exception:
        return True
    return False


_task: Task[..., ArtifactRef] = task(
    cache_policy=CacheKeyFnPolicy(cache_key_fn=lambda context, parameters: key(parameters["step"])),
    persist_result=True,
    result_serializer="json",
    retry_condition_fn=_worth_retrying,
)(making.build_in)


def _run(step: Step, label: str, *, again: bool) -> State[ArtifactRef]:
    run: Any = _configured(step, label, again=again)
    state: State[ArtifactRef] = run(
        str(sage_home()), step, label, again, return_state=True, wait_for=_made_by(step)
    )
    return state


def _configured(step: Step, label: str, *, again: bool) -> Task[..., ArtifactRef]:
    return _task.with_options(
        name=step.name,
        task_run_name=_name(step, label),
        retries=step.retries,
        retry_delay_seconds=list(_DELAYS_S[: step.retries]),
        refresh_cache=again,
    )


def _feeds_on_remade(step: Step) -> bool:
    return any(ref in _remade for ref in references(step))


def _made_by(step: Step) -> list[State[Any]]:
    """The task runs of this flow run that made what the step is made from."""
    return [_states[ref] for ref in dict.fromkeys(references(step)) if ref in _states]


def _checked(state: State[ArtifactRef], step: Step, label: str, began: float) -> ArtifactRef:
    ref = _as_ref(state.result())
    hit = state.name == "Cached" or _made_before(began, ref)
    if hit and not store().verify(ref):
        state = _run(step, label, again=True)
        ref = _as_ref(state.result())
        hit = False
        _remade.add(ref)
    elif not hit and _feeds_on_remade(step):
        _remade.add(ref)
    _states[ref] = state
    _log(_name(step, label), Cached(ref, hit))
    for listener in list(_listeners):
        listener(_name(step, label), Cached(ref, hit))
    return ref


def _made_before(time_s: float, ref: ArtifactRef) -> bool:
    """Whether the store had it: a run that was killed can have finished an artefact that Prefect's
    cache was not told of."""
    return (store().folder(ref) / MANIFEST).stat().st_mtime < time_s


def _log(name: str, cached: Cached) -> None:
    """A line in the flow run's log."""
    if cached.hit:
        get_run_logger().info("cached  %s", name)
        return
    seconds = store().manifest(cached.ref)["cost"]["seconds"]
    get_run_logger().info("made    %s in %.1f s%s", name, seconds, cost(cached.ref))


def cost(ref: ArtifactRef) -> str:
    """What the models of a stage read and wrote, in words."""
    usages = store().manifest(ref)["cost"]["engines"].values()
    if not usages:
        return ""
    read, written = (
        sum(usage[f"{kind}_tokens"] for usage in usages) for kind in ("prompt", "completion")
    )
    return f"  {read:,} tokens read, {written:,} written"


def _name(step: Step, label: str) -> str:
    return f"{step.name} {label}".strip()


def _as_ref(result: Any) -> ArtifactRef:
    """References come back from Prefect's JSON results as plain objects."""
    return result if isinstance(result, ArtifactRef) else ArtifactRef(**dict(result))
