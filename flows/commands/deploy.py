"""``sage deploy``: registers the deployments of ``deployments/prefect.yaml``.

Prefect's own command does the work; what it cannot do is take a preset as the default of the
form's parameters, so that is set afterwards, from each deployment's tag ``preset:NAME``.
"""

import os
import subprocess
import sys
from pathlib import Path

from flows.commands.output import out
from sage_core.errors import SageError

_PRESET_TAG = "preset:"


def deploy() -> None:
    """Register the deployments of deployments/prefect.yaml on the server that `sage ui` runs."""
    from flows import environment

    environment.prepare(quiet=True)
    for name in _register():
        out.print(f"registered [bold]{name}[/]")


def _register() -> list[str]:
    """Register all deployments; returns their names, flow and deployment.

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
    yaml = root / "deployments" / "prefect.yaml"
    if not yaml.is_file():
        raise SageError(f"{yaml} does not exist; run `sage deploy` from a checkout of the project")
    command = [sys.executable, "-m", "prefect", "--no-prompt"]
    environment = {**os.environ, "PREFECT_API_URL": api}
    pool = ["work-pool", "create", "sage", "--type", "process", "--overwrite"]
    deploy = ["deploy", "--all", "--prefect-file", str(yaml)]
    for arguments in (pool, deploy):
        done = subprocess.run(
            [*command, *arguments], cwd=root, env=environment, capture_output=True, text=True
        )
        if done.returncode != 0:
            said = done.stdout + done.stderr
            raise SageError(f"Prefect at {api} refused the deployments:\n{said}")
    return _set_presets()


def _set_presets() -> list[str]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentUpdate

    from sage_core.config.loading import load_config

    names = []
    with get_client(sync_client=True) as client:
        flows = {flow.id: flow.name for flow in client.read_flows()}
        for deployment in client.read_deployments():
            for tag in deployment.tags:
                if tag.startswith(_PRESET_TAG):
                    config = load_config(tag.removeprefix(_PRESET_TAG)).model_dump(mode="json")
                    client.update_deployment(
                        deployment.id, DeploymentUpdate(parameters={"config": config})
                    )
                    names.append(f"{flows[deployment.flow_id]}/{deployment.name}")
    return sorted(names)
