"""deployments/notifications.yaml as Prefect's server reads it: which events it answers, and what
the message says."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.events import AutomationCore
from prefect.types._datetime import now

from tasks import notices

PATH = Path(__file__).parents[1] / "deployments" / "notifications.yaml"
TEXT = PATH.read_text()
AUTOMATIONS: list[dict[str, Any]] = yaml.safe_load(TEXT.replace("BLOCK_ID", str(uuid4())))[
    "automations"
]


def event(name: str, resource: str, payload: dict[str, Any] | None = None) -> Any:
    from prefect.server.events.schemas.events import ReceivedEvent

    return ReceivedEvent(
        id=uuid4(),
        occurred=now("UTC"),
        event=name,
        resource={"prefect.resource.id": resource, "prefect.resource.name": "sage-demo m2"},
        payload=payload or {},
    )


def answering(asked: Any) -> list[str]:
    """The automations whose trigger the server takes the event for."""
    from prefect.server.events.schemas.automations import EventTrigger

    found = []
    for automation in AUTOMATIONS:
        trigger = EventTrigger.model_validate(automation["trigger"])
        if trigger.immediate and trigger.expects(asked.event) and trigger.covers(asked):
            found.append(automation["name"])
    return found


def test_prefects_client_takes_all_of_them() -> None:
    for automation in AUTOMATIONS:
        AutomationCore.model_validate(automation)
    assert TEXT.count("block_document_id: BLOCK_ID") == len(AUTOMATIONS)


@pytest.mark.parametrize(
    ("name", "resource", "expected"),
    [
        ("prefect.flow-run.Failed", "prefect.flow-run.1", ["sage: a run failed"]),
        ("prefect.flow-run.Crashed", "prefect.flow-run.1", ["sage: a run failed"]),
        ("prefect.flow-run.Completed", "prefect.flow-run.1", []),
        ("prefect.task-run.Failed", "prefect.task-run.1", []),
        ("prefect.flow-run.Suspended", "prefect.flow-run.1", ["sage: a person is asked"]),
        (notices.REFUSED, "sage.model.sage-demo.m2", ["sage: a challenger was refused"]),
        (notices.COLLAPSED, "sage.model.sage-demo.m2", ["sage: a model has collapsed"]),
    ],
)
def test_each_event_has_its_message(name: str, resource: str, expected: list[str]) -> None:
    assert answering(event(name, resource)) == expected


def test_the_message_names_the_model_and_the_reasons() -> None:
    from jinja2 import Environment, StrictUndefined

    templates = Environment(undefined=StrictUndefined, autoescape=False)
    asked = event(notices.COLLAPSED, "sage.model.sage-demo.m2", {"reasons": "half repeat"})
    action = next(a for a in AUTOMATIONS if a["name"].endswith("collapsed"))["actions"][0]
    subject = templates.from_string(action["subject"]).render(event=asked)
    assert subject == "SAGE: sage-demo m2 may have collapsed"
    assert templates.from_string(action["body"]).render(event=asked) == "half repeat"


def test_outside_a_flow_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    monkeypatch.setattr(notices, "emit_event", lambda name, **rest: sent.append(name))
    notices.notice(notices.COLLAPSED, "sage-demo", "m2", ["half repeat"])
    assert sent == []


def test_a_model_that_collapses_within_a_flow_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(notices, "emit_event", lambda name, **rest: sent.append((name, rest)))
    monkeypatch.setattr(notices.FlowRunContext, "get", lambda: object())
    notices.notice(notices.COLLAPSED, "sage-demo", "m2", ["half repeat", "no questions"])
    [(name, rest)] = sent
    assert name == notices.COLLAPSED
    asked = event(name, rest["resource"]["prefect.resource.id"], rest["payload"])
    assert answering(asked) == ["sage: a model has collapsed"]
    assert asked.payload["reasons"] == "half repeat; no questions"
