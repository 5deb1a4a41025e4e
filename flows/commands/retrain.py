"""``sage retrain``: one round of retraining."""

from typing import Any

from flows.commands.options import AsJson, Overrides, Wait
from flows.commands.output import out, print_json
from flows.commands.promote import Name


def retrain(
    name: Name = "", overrides: Overrides = None, wait: Wait = True, as_json: AsJson = False
) -> None:
    """Train a challenger for the champion on what is new; promote it if it passes the gate."""
    from flows import environment
    from tasks import home

    with home.held(wait=wait):
        environment.prepare(quiet=True)
        environment.stop_orphaned_servers()
        environment.check_prefect_database()
        from flows.commands.pipeline_run import name_stages
        from flows.retraining import retrain_flow

        with name_stages():
            record = retrain_flow(name, list(overrides or ()))
    if as_json:
        print_json(record)
    else:
        _show(record)


def _show(record: dict[str, Any]) -> None:
    from rich.table import Table

    if "round" not in record:
        out.print(f"nothing new since {record['champion']}; no model was trained")
        return
    columns = ("check", "champion", "challenger", "value", "needed", "passed")
    table = Table(*columns, title=f"round {record['round']}: {record['outcome']}")
    for check in record["checks"]:
        table.add_row(*(str(check[column]) for column in columns))
    out.print(table)
    for reason in record["reasons"]:
        out.print(f"- {reason}", highlight=False)
