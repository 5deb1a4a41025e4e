"""``sage deploy``: registers the deployments of ``deployments/prefect.yaml``, and the automations
that find runs whose process is gone and start them again.

Prefect's own command does the work; what it changed is found by looking before and after. A work
pool that is there stays as it is, and so does what a person has chosen in the UI: what is switched
off, and parameters. Deployments of flows that this version does not have any more are removed.
"""

import os
import subprocess
import sys
from collections.abc import Set
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
_AUTOMATIONS = (_ZOMBIES, _RESTARTS)
_OF_DEPLOYMENTS = (
    "description", "entrypoint", "parameters", "parameter_openapi_schema",
    "enforce_parameter_schema", "concurrency_options", "job_variables", "pull_steps", "tags",
    "version",
)  # fmt: skip
_OF_AUTOMATIONS = ("description", "enabled", "trigger", "actions")
Known = dict[str, dict[str, Any]]
"""What a server has: each by what it is and its name."""


def deploy() -> None:
    """Register the deployments of deployments/prefect.yaml on the server that `sage ui` runs, and
    say what changed."""
    from flows import environment

    environment.prepare(quiet=True)
    for line in _register():
        out.print(line)


def _register() -> list[str]:
    """Register all deployments; returns what changed, a line for each.

    Raises:
        SageError: no server, or Prefect refused.
    """
    from prefect.client.orchestration import get_client

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
    named = yaml.safe_load(path.read_text(encoding="utf-8"))["deployments"]
    pools = {each["work_pool"]["name"] for each in named}
    with get_client(sync_client=True) as client:
        before = _found(client, pools)
        if _POOL in pools and f"work pool {_POOL}" not in before:
            _prefect(api, root, "work-pool", "create", _POOL, "--type", "process")
        done = _prefect(api, root, "deploy", "--all", "--prefect-file", str(path))
        if done.returncode != 0:
            said = done.stdout + done.stderr
            raise SageError(f"Prefect at {api} refused the deployments:\n{said}")
        _remove_stale(client, pools, root)
        _automate(client)
        _keep_choices(client, pools, before)
        after = _found(client, pools)
    unchanged = f"nothing changed: {len(after)} deployments, automations and pools are up to date"
    return changes(before, after) or [unchanged]


def _prefect(api: str, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of Prefect's. That of a pool may fail: a worker that starts makes it, too."""
    return subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=root,
        env={**os.environ, "PREFECT_API_URL": api},
        capture_output=True,
        text=True,
    )


def changes(before: Known, after: Known) -> list[str]:
    """What is new, gone or different on a server, a line for each."""
    lines = [f"removed [bold]{name}[/]" for name in before if name not in after]
    for name, fields in after.items():
        if name not in before:
            lines.append(f"made [bold]{name}[/]")
            continue
        old = before[name]
        different = [key for key in {**old, **fields} if old.get(key) != fields.get(key)]
        if different:
            lines.append(f"changed [bold]{name}[/]: {', '.join(different)}")
    return sorted(lines)


def _found(client: Any, pools: Set[str]) -> Known:
    """What the server has in these work pools, without ids, times and states."""
    found: Known = {
        f"work pool {pool.name}": {"type": pool.type}
        for pool in client.read_work_pools()
        if pool.name in pools
    }
    deployments = _deployments(client, pools)
    for name, each in deployments.items():
        limit = each.global_concurrency_limit
        record = each.model_dump(mode="json", include=set(_OF_DEPLOYMENTS))
        record["limit"] = limit.limit if limit else None
        record["schedules"] = [
            {key: schedule[key] for key in ("schedule", "active", "parameters")}
            for schedule in each.model_dump(mode="json")["schedules"]
        ]
        found[f"deployment {name}"] = record
    ids = {each.id for each in deployments.values()}
    for each in client.read_automations():
        started = {getattr(action, "deployment_id", None) for action in each.actions}
        if each.name in _AUTOMATIONS or started & ids:
            found[f"automation {each.name}"] = _content(each)
    return found


def _deployments(client: Any, pools: Set[str]) -> dict[str, Any]:
    """The deployments of these work pools, by flow and name."""
    from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName

    of_pools = WorkPoolFilter(name=WorkPoolFilterName(any_=sorted(pools)))
    there = client.read_deployments(work_pool_filter=of_pools)
    return {f"{client.read_flow(each.flow_id).name}/{each.name}": each for each in there}


def _content(automation: Any) -> dict[str, Any]:
    """An automation without its id."""
    record: dict[str, Any] = automation.model_dump(mode="json", include=set(_OF_AUTOMATIONS))
    for names in ("expect", "after"):
        record["trigger"][names] = sorted(record["trigger"][names])
    return record


def _remove_stale(client: Any, pools: Set[str], root: Path) -> None:
    """Remove deployments whose flow is gone."""
    for deployment in _deployments(client, pools).values():
        source = str(deployment.entrypoint).partition(":")[0]
        if source.startswith("flows/") and not (root / source).is_file():
            client.delete_deployment(deployment.id)


def _automate(client: Any) -> None:
    """Make the automations that are not there, and bring the others up to date."""
    for automation in (_zombies(), _restarts()):
        there = client.read_automations_by_name(automation.name)
        if not there:
            client.create_automation(automation)
            continue
        automation.enabled = there[0].enabled
        if _content(automation) != _content(there[0]):
            client.update_automation(there[0].id, automation)


def _keep_choices(client: Any, pools: Set[str], before: Known) -> None:
    """Leave what a person has chosen in the UI: Prefect registers schedules and triggers as on, and
    forgets parameters that the file does not give."""
    from prefect.client.schemas.actions import DeploymentUpdate

    for name, deployment in _deployments(client, pools).items():
        known = before.get(f"deployment {name}", {})
        off = [each["schedule"] for each in known.get("schedules", ()) if not each["active"]]
        for schedule in deployment.schedules:
            if schedule.active and schedule.schedule.model_dump(mode="json") in off:
                client.update_deployment_schedule(deployment.id, schedule.id, active=False)
        fields = deployment.parameter_openapi_schema["properties"]
        chosen = {
            name: each for name, each in known.get("parameters", {}).items() if name in fields
        }
        parameters = {**chosen, **deployment.parameters}
        if parameters != deployment.parameters:
            client.update_deployment(deployment.id, DeploymentUpdate(parameters=parameters))
    for automation in client.read_automations():
        known = before.get(f"automation {automation.name}", {})
        if automation.enabled and known.get("enabled") is False:
            client.pause_automation(automation.id)


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
