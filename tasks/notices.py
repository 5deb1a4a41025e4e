"""Events that Prefect's automations act on (deployments/notifications.yaml, prefect.yaml)."""

from collections.abc import Sequence

from prefect.context import FlowRunContext
from prefect.events import emit_event

COLLAPSED = "sage.model.collapsed"
REFUSED = "sage.promotion.refused"
REGISTERED = "sage.corpus.registered"


def notice(event: str, registered: str, model: str, reasons: Sequence[str]) -> None:
    """Tell Prefect's server what became of a model, with reasons; outside a flow nobody is told.

    Args:
        event: what became of it: one of this module's first two events.
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


def corpus_registered(registered: str, version: int, data: str, reader: str) -> None:
    """Tell Prefect's server of a new corpus of a registered model, which the deployment `retrain`
    acts on; call it within a flow.

    Args:
        data, reader: as in the form.
    """
    emit_event(
        REGISTERED,
        resource={
            "prefect.resource.id": f"sage.corpus.{registered}",
            "prefect.resource.name": f"{registered} corpus {version}",
        },
        payload={"name": registered, "version": version, "data": data, "reader": reader},
    )
