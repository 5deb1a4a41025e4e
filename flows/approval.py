"""A person's word on a challenger that has passed the gate.

The round ends with the challenger as ``candidate``. In a deployment its flow run is then
suspended: no process waits, the home is free, and Prefect's UI shows the decision table with two
fields. When a person has filled them in, Prefect starts the run again, which finds its round
decided and acts on the answer. From the command line, `sage promote` is the answer. Whoever does
not answer in time has not approved: the next round records that.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import suspend_flow_run
from prefect.input import RunInput
from pydantic import Field

from sage_core.config.retrain import RetrainConfig
from sage_core.evaluation.gate import Check
from tasks.decisions import NOT_APPROVED, OVERTAKEN, PROMOTED, REFUSED_BY_PERSON, WAITING
from tasks.registry import Registry

_COLUMNS = ("check", "champion", "challenger", "value", "needed", "passed")


class Approval(RunInput):
    """Whether the challenger becomes the champion."""

    promote: bool = Field(
        title="Promote", description="The challenger becomes the champion; else it is refused."
    )
    reason: str = Field(
        min_length=1, title="Reason", description="Why; it is kept with the decision."
    )


def deadline(settings: RetrainConfig) -> str:
    """Until when a person may answer, in ISO format."""
    now = datetime.now(UTC)
    return (now + timedelta(days=settings.approval_days)).isoformat(timespec="seconds")


def ask(record: Mapping[str, Any]) -> Approval:
    """The answer of a person; the first call suspends the flow run of a deployment. Call it without
    the home held."""
    left = datetime.fromisoformat(record["waits_until"]) - datetime.now(UTC)
    answer: Approval = suspend_flow_run(
        wait_for_input=Approval.with_initial_data(description=question(record)),
        timeout=max(1, int(left.total_seconds())),
        key="approval",
    )
    return answer


def question(record: Mapping[str, Any]) -> str:
    """The decision table in Markdown, and how to hear the challenger."""
    rows = [_COLUMNS, ("---",) * len(_COLUMNS)]
    rows += [tuple(str(check[column]) for column in _COLUMNS) for check in record["checks"]]
    table = "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)
    return (
        f"Round {record['round']}: version {record['challenger']} has passed the gate against the "
        f"champion, version {record['champion']}. Talk with it: `sage chat --model candidate`. "
        f"Without an answer until {record['waits_until']} it is not promoted.\n\n{table}"
    )


def conclude(registry: Registry, record: Mapping[str, Any], answer: Approval) -> dict[str, Any]:
    """Do what a person has decided on a round that waits; returns its new record. Call it with the
    home held."""
    if record["outcome"] != WAITING:
        return dict(record)
    version = registry.find(record["challenger"])
    champion = registry.champion().version
    if champion == version.version:  # by `sage promote`, meanwhile
        outcome = PROMOTED
    elif not answer.promote:
        outcome = REFUSED_BY_PERSON
    elif champion != record["champion"]:
        outcome = OVERTAKEN
    else:
        outcome = PROMOTED
        registry.promote(version, f"approved in round {record['round']}: {answer.reason}")
    registry.withdraw(version.version)
    return _record(registry, record, outcome, answer.reason)


def close(registry: Registry, decided: Iterable[Mapping[str, Any]]) -> None:
    """Record what became of the rounds that waited for a person: promoted by `sage promote`, or not
    approved in time. Call it with the home held."""
    promoted = set(registry.champions())
    now = datetime.now(UTC)
    for record in decided:
        if record["outcome"] != WAITING or "waits_until" not in record:
            continue
        if record["challenger"] in promoted:
            _record(registry, record, PROMOTED, "sage promote")
        elif datetime.fromisoformat(record["waits_until"]) < now:
            registry.withdraw(record["challenger"])  # which a person may have deleted
            _record(registry, record, NOT_APPROVED, f"no answer until {record['waits_until']}")


def _record(
    registry: Registry, record: Mapping[str, Any], outcome: str, reason: str
) -> dict[str, Any]:
    passed = outcome == PROMOTED
    check = asdict(Check("a person", "-", "-", reason, "approves", passed))
    reasons = [*record["reasons"], *([] if passed else [f"a person: {outcome}, {reason}"])]
    new = {**record, "outcome": outcome, "reasons": reasons, "checks": [*record["checks"], check]}
    registry.decide_again(new, check)
    return new
