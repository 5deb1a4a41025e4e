"""Where stages that run side by side go: threads of this process, or a Ray or Dask cluster.

Stages write into the SAGE home and tell Prefect's server about it, so every worker of a cluster
must reach both: the folder by the same path, and the server at its address.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import StrEnum
from typing import Any
from uuid import UUID

from sage_core.errors import ConfigError, SageError

_MOST_STARTS = 10  # of one flow run that crashes each time


class Runner(StrEnum):
    """The choices of ``--runner``."""

    threads = "threads"
    ray = "ray"
    dask = "dask"


def task_runner(runner: Runner) -> Any:
    """Prefect's task runner of that name; a cluster's address comes from ``RAY_ADDRESS`` or
    ``DASK_SCHEDULER_ADDRESS``.

    Raises:
        ConfigError: the cluster's packages are not installed, or its address is not given.
    """
    if runner is Runner.threads:
        from prefect.task_runners import ThreadPoolTaskRunner

        return ThreadPoolTaskRunner(max_workers=2)
    variable = "RAY_ADDRESS" if runner is Runner.ray else "DASK_SCHEDULER_ADDRESS"
    address = os.environ.get(variable)
    if not address:
        raise ConfigError(f"--runner {runner} needs {variable}, the address of a cluster")
    try:
        if runner is Runner.ray:
            from prefect_ray import RayTaskRunner

            return RayTaskRunner(address=address)
        from prefect_dask import DaskTaskRunner

        return DaskTaskRunner(address=address)
    except ImportError as error:
        raise ConfigError(
            f"--runner {runner} needs {error.name}; install the extra: pip install -e '.[cluster]'"
        ) from None


@contextmanager
def shared_server(runner: Runner) -> Iterator[None]:
    """One Prefect server for this process and the workers of a cluster on this machine, unless
    ``PREFECT_API_URL`` names one: without it, every worker would start its own."""
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if runner is Runner.threads or PREFECT_API_URL.value():
        yield
        return
    server = SubprocessASGIServer()
    server.start()
    try:
        with temporary_settings({PREFECT_API_URL: server.api_url}):
            yield
    finally:
        server.stop()


def held_by_flow() -> AbstractContextManager[None]:
    """The lock of the home (:func:`tasks.home.held`) for the flow that calls this; it waits, and
    the flow's log says for whom.

    Raises:
        SageError: the flow run crashed and was started again, but too often, or while it was being
            cancelled.
    """
    from prefect import get_run_logger
    from prefect.runtime import flow_run

    from tasks import home

    if flow_run.get_run_count() > 1:
        _check_restart(flow_run.get_run_count(), flow_run.get_id() or "")
    return home.held(f"the flow run {flow_run.get_name()}", say=get_run_logger().warning)


def _check_restart(starts: int, run: str) -> None:
    from prefect.client.orchestration import get_client

    if starts > _MOST_STARTS:
        raise SageError(
            f"this run was started {_MOST_STARTS} times and ended each time before it was done; "
            "its log and that of the worker say why. Start a new run to go on where it was"
        )
    with get_client(sync_client=True) as client:
        states = sorted(client.read_flow_run_states(UUID(run)), key=lambda state: state.timestamp)
    if died_cancelling([state.type.value for state in states]):
        raise SageError("this run was being cancelled when its process ended; start a new one")


def died_cancelling(states: Sequence[str]) -> bool:
    """Whether a flow run that is started again was being cancelled when its process ended: its
    states so far, the oldest first, the present start (``RUNNING``) last."""
    before = states[:-1]
    starts = [number for number, state in enumerate(before) if state == "RUNNING"]
    since = before[starts[-1] :] if starts else before
    return "CANCELLING" in since and "CANCELLED" not in since
