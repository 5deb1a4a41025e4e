"""Where MLflow keeps its runs and models: its server, or the SQLite database of the SAGE home."""

import os
from pathlib import Path
from typing import Any

import mlflow
from sqlalchemy import event
from sqlalchemy.engine import Engine

from tasks import databases
from tasks.home import mlflow_database, sage_home

_BUSY_TIMEOUT_S = 180  # longer than a back-up or a migration of a database takes


@event.listens_for(Engine, "before_cursor_execute", retval=True)
def _wait_longer(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool
) -> tuple[str, Any]:
    """MLflow waits 20 s for a SQLite database that another process has locked, then fails."""
    if statement.startswith("PRAGMA busy_timeout"):
        statement = f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_S * 1000};"
    return statement, parameters


def connect() -> mlflow.MlflowClient:
    """A client, for which the home's database is made if it is used; call it with the home held.

    Raises:
        ArtifactError: the home's database cannot be used.
    """
    prepare_database()
    mlflow.set_tracking_uri(tracking_uri())
    return mlflow.MlflowClient()


def tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI``, by default the SQLite database of the SAGE home."""
    return os.environ.get("MLFLOW_TRACKING_URI") or _own_database()


def _own_database() -> str:
    return f"sqlite:///{mlflow_database()}"


def prepare_database() -> None:
    """Make the home's MLflow database if there is none; call it with the home held.

    MLflow migrates a SQLite file without a lock and outside a transaction, and one that was cut
    short never opens again. So it is made beside its place and renamed.

    Raises:
        ArtifactError: the database is there, and cannot be used.
    """
    path = mlflow_database()
    if tracking_uri() != _own_database():
        return
    databases.check(path)
    if path.exists():
        return
    from mlflow.db import upgrade

    unfinished = path.with_name("mlflow.db.unfinished")
    for leftover in path.parent.glob(f"{unfinished.name}*"):  # with SQLite's journal
        leftover.unlink()
    assert upgrade.callback is not None
    upgrade.callback(f"sqlite:///{unfinished}")
    unfinished.rename(path)


def artifact_root() -> Path:
    """Where MLflow's artefacts lie when the home's own database is used."""
    return sage_home() / "mlflow-artifacts"


def artifact_location(experiment: str) -> str | None:
    """The address of an experiment's artefacts; None where a server decides for itself."""
    return (artifact_root() / experiment).as_uri() if tracking_uri() == _own_database() else None
