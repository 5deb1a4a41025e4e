"""Events that Prefect's automations can act on (deployments/notifications.yaml)."""

from collections.abc import Sequence

from prefect.context import FlowRunContext
from prefect.events import emit_event

COLLAPSED = "sage.model.collapsed"
REFUSED = "sage.promotion.refused"


def notice(event: str, registered: str, model: str, reasons: Sequence[str]) -> None:
    """Tell Prefect's server what became of a model, with reasons; outside a flow nobody is told.

    Args:
        event: one of this module's events.
        registered: the registered model.
        model: its alias, such as m2.
    """
    if FlowRunContext.get() is None:
        return
    emit_event(
        event,
        resource={
            "prefect.resource.id": f"sage.model.{registered}.{model}",
            "prefect.resource.name": f"{registered} {model}",
        },
        payload={"reasons": "; ".join(reasons)},
    )
