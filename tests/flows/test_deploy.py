"""What `sage deploy` says changed on a server."""

from flows.commands.deploy import changes

POOL = {"work pool sage": {"type": "process"}}
WEEKLY = {"description": "Each week.", "schedules": [{"schedule": {"cron": "0 3 * * 1"}}]}


def test_nothing_is_said_where_nothing_changed() -> None:
    known = {**POOL, "deployment sage-retrain/weekly": WEEKLY}
    assert changes(known, dict(known)) == []


def test_what_is_new_gone_or_different_is_named_with_its_fields() -> None:
    daily = {**WEEKLY, "schedules": [{"schedule": {"cron": "0 3 * * *"}}], "tags": []}
    before = {**POOL, "deployment sage-retrain/weekly": WEEKLY, "deployment sage-old/old": {}}
    after = {**POOL, "deployment sage-retrain/weekly": daily, "automation restarts": {}}
    assert changes(before, after) == [
        "changed [bold]deployment sage-retrain/weekly[/]: schedules, tags",
        "made [bold]automation restarts[/]",
        "removed [bold]deployment sage-old/old[/]",
    ]
