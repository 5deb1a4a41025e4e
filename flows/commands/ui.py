"""``sage ui``: Prefect's and MLflow's pages over the SAGE home."""

from typing import Annotated

import typer

from flows.commands.options import Wait


def ui(
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow UI.")] = 5000,
    worker: Annotated[bool, typer.Option(help="Also start a worker for deployments.")] = True,
    wait: Wait = True,
) -> None:
    """Start the Prefect server, the MLflow UI and a worker on loopback, over the SAGE home."""
    from flows import environment

    environment.prepare(quiet=False)

    from flows.commands.ui_servers import serve

    serve(prefect_port, mlflow_port, worker=worker, wait=wait)
