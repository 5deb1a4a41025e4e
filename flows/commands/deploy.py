"""``sage deploy``: registers the deployments of ``deployments/prefect.yaml``, and the automations
that find runs whose process is gone and start them again.

Prefect's own command does the work. Deployments of flows that this version does not have any more
are removed.
"""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from flows.commands.output import out
from sage_core.errors import SageError

_POOL = "sage"
_ZOMBIES = "sage: crash runs that stopped answering"
_RESTARTS = "sage: start crashed runs again"
_SILENT_S = 300  # ten heartbeats (flows/commands/ui_servers.py): a busy machine is late at times
_SETTLED_S = 30


def deploy() -> None:
    """Register the deployments of deployments/prefect.yaml on the server that `sage ui` runs."""
    from flows import environment

    environment.prepare(quiet=True)
    for line in _register():
        out.print(line)


def _register() -> list[str]:
    """Register all deployments; returns what was done, a line for each.

    Raises:
        SageError: no server, or Prefect refused.
    """
    from flows.environment import running_server
    from tasks.home import sage_home

    api = os.environ.get("PREFECT_API_URL") or running_server(sage_home())
    if api is None:
        raise SageError(
            "no Prefect server is known; start one with `sage ui`, or set PREFECT_API_URL"
        )
    root = Path(__file__).parents[2]
    path = root / "deployments" / "prefect.yaml"
    if not path.is_file():
        raise SageError(f"{path} does not exist; run `sage deploy` from a checkout of the project")
    command = [sys.executable, "-m", "prefect", "--no-prompt"]
    environment = {**os.environ, "PREFECT_API_URL": api}
    pool = ["work-pool", "create", _POOL, "--type", "process", "--overwrite"]
    deploy = ["deploy", "--all", "--prefect-file", str(path)]
    for arguments in (pool, deploy):
        done = subprocess.run(
            [*command, *arguments], cwd=root, env=environment, capture_output=True, text=True
        )
        if done.returncode != 0:
            said = done.stdout + done.stderr
            raise SageError(f"Prefect at {api} refused the deployments:\n{said}")
    return _settle(root, {each["name"] for each in yaml.safe_load(path.read_text())["deployments"]})


def _settle(root: Path, registered: set[str]) -> list[str]:
    """Remove deployments whose flow is gone, and make the automations that are not there."""
    from prefect.client.orchestration import get_client

    lines = []
    with get_client(sync_client=True) as client:
        flows = {flow.id: flow.name for flow in client.read_flows()}
        for deployment in client.read_deployments():
            if deployment.work_pool_name != _POOL:
                continue
            name = f"{flows[deployment.flow_id]}/{deployment.name}"
            source = str(deployment.entrypoint).partition(":")[0]
            if source.startswith("flows/") and not (root / source).is_file():
                client.delete_deployment(deployment.id)
                lines.append(f"removed [bold]{name}[/]: {source} is gone")
            elif deployment.name in registered:
                lines.append(f"registered [bold]{name}[/]")
        for automation in (_zombies(), _restarts()):
            if not client.read_automations_by_name(automation.name):
                client.create_automation(automation)
                lines.append(f"made the automation [bold]{automation.name}[/]")
    return sorted(lines)


def _zombies() -> Any:
    """Marks a flow run as crashed whose process has sent no heartbeat for long, or never started:
    it was killed together with its worker, or its machine is gone. Without that it would stay
    Running or Pending, and hold its deployment's only slot."""
    from prefect.automations import AutomationCore
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState

    signs = {"heartbeat", "Pending"}  # a run of the command line is Running without heartbeats
    others = {
        "Running",
        "Completed",
        "Failed",
        "Cancelled",
        "Crashed",
        "AwaitingRetry",
        "Suspended",
    }
    return AutomationCore(
        name=_ZOMBIES,
        description="A run that stopped sending heartbeats was killed.",
        trigger=_silence(signs, signs | others, _SILENT_S),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"No heartbeat for {_SILENT_S} s: the run's process was killed.",
            )
        ],
    )


def _restarts() -> Any:
    """Puts a deployment's run that crashed (killed, out of memory, machine or worker gone) back in
    the queue: it goes on where it was. A run that crashes each time ends as failed
    (:func:`flows.runners.held_by_flow`), which starts nothing.

    It waits a little, since the worker reports one crash twice, some seconds apart, and the second
    report must not hit the new process.
    """
    from prefect.automations import AutomationCore
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState

    others = {
        "AwaitingRetry",
        "Scheduled",
        "Pending",
        "Running",
        "Completed",
        "Failed",
        "Cancelled",
    }
    return AutomationCore(
        name=_RESTARTS,
        description="A run whose process was killed goes on where it was.",
        trigger=_silence({"Crashed"}, {"Crashed"} | others, _SETTLED_S, of_deployments=True),
        actions=[
            ChangeFlowRunState(
                state=StateType.SCHEDULED,
                name="AwaitingRetry",
                message="The run crashed; it goes on where it was.",
            )
        ],
    )


def _silence(
    after: set[str], expect: set[str], seconds: int, *, of_deployments: bool = False
) -> Any:
    """Fires for a flow run of which, after one of the events ``after``, none of ``expect`` is heard
    for some seconds; what is in both starts the wait anew."""
    from prefect.automations import EventTrigger, Posture

    deployments = {
        "prefect.resource.role": ["deployment"],
        "prefect.resource.id": ["prefect.deployment.*"],
    }
    return EventTrigger(
        after={f"prefect.flow-run.{event}" for event in after},
        expect={f"prefect.flow-run.{event}" for event in expect},
        match={"prefect.resource.id": ["prefect.flow-run.*"]},
        match_related=deployments if of_deployments else {},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=timedelta(seconds=seconds),
    )
