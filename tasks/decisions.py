"""Decisions of retraining in MLflow: one run each, with the tag ``sage.round``, the whole record as
``decision.json`` and its checks as a table."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import RunTag

from tasks import notices

ROUND_TAG = "sage.round"
DECISION = "decision.json"
WAITING = "waiting for approval"
PROMOTED = "promoted"
REFUSED = "refused"
REFUSED_BY_PERSON = "refused by a person"
NOT_APPROVED = "not approved in time"
OVERTAKEN = "overtaken"
"""Outcomes; the last one: the champion changed before a person had decided."""


def write(
    client: Any,
    run_id: str,
    registered: str,
    record: Mapping[str, Any],
    checks: Sequence[Mapping[str, Any]],
) -> None:
    """Log what became of a challenger, in the MLflow run of its round. A later outcome replaces the
    one that is there, and adds to the table. Whoever is to know of a refusal is told.

    Args:
        client: an ``MlflowClient``.
        checks: those of the record that the table does not have yet.
    """
    client.log_dict(run_id, dict(record), DECISION)
    client.log_table(run_id, pd.DataFrame(checks), artifact_file="checks.json")
    outcome, reasons = str(record["outcome"]), "; ".join(record["reasons"])
    tags = {
        ROUND_TAG: str(record["round"]),
        "sage.decision": outcome,
        "mlflow.note.content": f"{outcome}: {reasons}" if reasons else outcome,
    }
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    if outcome in (REFUSED, REFUSED_BY_PERSON, NOT_APPROVED):
        notices.notice(notices.REFUSED, registered, "challenger", record["reasons"])


def read(client: Any, experiment_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The MLflow run and the record of every decision, in any order."""
    token: str | None = None
    while token != "":
        page = client.search_runs(
            [experiment_id],
            f"tags.`{ROUND_TAG}` != '' and attributes.status = 'FINISHED'",
            page_token=token,
        )
        for run in page:
            uri = f"runs:/{run.info.run_id}/{DECISION}"
            yield run.info.run_id, json.loads(mlflow.artifacts.load_text(uri))
        token = page.token or ""
