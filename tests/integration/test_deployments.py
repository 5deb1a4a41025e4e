"""`sage ui` and `sage deploy`: runs that are started through the server's API, as the form does."""

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil
import pytest
from deployed import call, ended, finished, free_port, made, serve, start
from tiny_run import ROOM, ROOT, SAGE, environment, small_base
from weather import weather_dialogues

pytestmark = pytest.mark.services


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def servers(home: Path) -> Iterator[tuple[str, str]]:
    """`sage ui` over the same home: the addresses of Prefect's API and of MLflow."""
    with serve(home) as served:
        for server in served.servers():
            names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
            process = psutil.Process(server["pid"])
            values = [process.environ()[name] for name in names]
            assert values == ["PASSIVE", "10000"], process.cmdline()
        yield served.api, served.mlflow


@pytest.fixture(scope="module")
def filled_in(home: Path) -> dict[str, Any]:
    """The form with another base model, as its user may fill it in: a small one, since what is
    tested here lies around the stages."""
    return {"preset": "tiny", "base_model": str(small_base(home / "base")), "advanced": ROOM}


def test_a_deployed_run_started_through_the_api_goes_through(
    home: Path, servers: tuple[str, str], filled_in: dict[str, Any]
) -> None:
    api, mlflow = servers
    with urlopen(f"{mlflow}/health") as answer:
        assert answer.status == 200
    said = [
        subprocess.run(
            [*SAGE, "deploy"], cwd=ROOT, env=environment(home), check=True,
            capture_output=True, text=True,
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert "made deployment sage-evaluate/evaluate" in said[0]
    assert "made automation sage: start crashed runs again" in said[0]
    assert said[1].startswith("nothing changed")
    deployment = call(f"{api}/deployments/name/sage-pipeline/tiny")
    assert len(deployment["parameter_openapi_schema"]["properties"]) == 8
    weekly = call(f"{api}/deployments/name/sage-retrain/weekly")
    assert [schedule["schedule"]["cron"] for schedule in weekly["schedules"]] == ["0 3 * * 1"]

    with pytest.raises(HTTPError) as refused:
        start(api, deployment, {**filled_in, "advanced": {"serch": {"candidates": 8}}})
    assert refused.value.code in (409, 422)

    call(f"{api}/deployments/{deployment['id']}", {"parameters": filled_in}, method="PATCH")
    run = finished(api, start(api, deployment, filled_in), home)
    assert run["name"].startswith("tiny: model.base=")
    assert {"preset:tiny", "seed:0"} <= {*run["tags"]}
    graph = call(f"{api}/flow_runs/{run['id']}/graph-v2")
    without = [node["label"] for _, node in graph["nodes"] if not node["parents"]]
    assert len(graph["nodes"]) > 40
    assert not [label for label in without if label.split()[0] in ("sft", "dpo", "report")]
    logs = call(f"{api}/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}})
    assert [each for each in logs if re.match(r"made +sft m3 in [0-9.]+ s", each["message"])]
    links = call(f"{api}/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
    (report,) = [each["data"] for each in links if each["key"] == "sage-report"]
    assert f"{mlflow}/#/experiments/" in report


def test_a_second_ui_over_the_home_is_refused(home: Path, servers: tuple[str, str]) -> None:
    arguments = ["ui", "--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]
    done = subprocess.run(
        [*SAGE, *arguments], cwd=ROOT, env=environment(home), capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert servers[0] in done.stderr
    assert (home / "ui.json").exists()  # still the first one's


def test_retraining_ends_at_once_without_a_champion_and_without_new_data(
    home: Path, servers: tuple[str, str]
) -> None:
    api, _ = servers
    weekly = call(f"{api}/deployments/name/sage-retrain/weekly")
    failed = ended(api, start(api, weekly, {}))
    assert "has no champion yet" in failed["state"]["message"]
    for _ in range(2):
        subprocess.run([*SAGE, "promote", "dpo"], cwd=ROOT, env=environment(home), check=True)
    back = subprocess.run(
        [*SAGE, "rollback"], cwd=ROOT, env=environment(home), capture_output=True, text=True
    )
    assert back.returncode == 2
    assert "nothing can be taken back" in back.stderr
    before = made(home)
    run = finished(api, start(api, weekly, {}), home)
    assert run["name"] == "retrain · nothing new"
    assert made(home) - before == Counter({"new-dialogues": 1})


def test_registered_models_are_refined_evaluated_and_asked_benchmarks(
    home: Path, servers: tuple[str, str]
) -> None:
    """Each through the form of its deployment; what is found is on the run's page, in MLflow."""
    api, mlflow = servers

    def run(deployment: str, **filled_in: Any) -> dict[str, Any]:
        found = call(f"{api}/deployments/name/{deployment}")
        return finished(api, start(api, found, filled_in), home)

    assert run("sage-refine/refine", model="m2")["name"] == "refine version 4 · nothing new"
    file = weather_dialogues(home / "data", 1, "rainy")
    no_rules = {"corpus": {"rules": [], "min_turns": 2, "span": "whole"}}
    refined = run("sage-refine/refine", model="m2", data=file, reader="messages", advanced=no_rules)
    assert re.fullmatch(r"refine version 4 · candidate \d+", refined["name"])

    evaluated = run("sage-evaluate/evaluate", first="m2", second="candidate")
    assert evaluated["name"] == "candidate against m2"
    keys = {"artifacts": {"flow_run_id": {"any_": [evaluated["id"]]}}}
    shown = {each["key"]: each["data"] for each in call(f"{api}/artifacts/filter", keys)}
    (row,) = json.loads(shown["sage-win-rates"])
    assert row["m2 wins"] + row["ties"] + row["candidate wins"] + row["unread"] == 2
    assert len(json.loads(shown["sage-measures"])) > 5
    assert f"{mlflow}/#/experiments/" in shown["sage-mlflow-run"]

    found = call(f"{api}/deployments/name/sage-benchmark/benchmark")
    with pytest.raises(HTTPError):  # no such benchmark: the server refuses the form
        start(api, found, {"tasks": ["arc_hard"]})
    none = ended(api, start(api, found, {"model": "m2", "tasks": ["gsm8k"], "limit": 2}))
    # For want of lm-eval, or of the file: before any work.
    assert re.search("lm-eval|gsm8k", none["state"]["message"])


def test_what_nobody_needs_is_shown_and_removed(home: Path, servers: tuple[str, str]) -> None:
    left = home / "artifacts" / "sft" / ".0123.4567"
    left.mkdir()
    for more in ([], ["--yes"]):
        said = subprocess.run(
            [*SAGE, "gc", "--json", *more], cwd=ROOT, env=environment(home), check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        assert [each["path"] for each in json.loads(said.stdout)["found"]] == [str(left)]
        assert left.exists() == (not more)


def test_the_servers_log_has_no_error(home: Path, servers: tuple[str, str]) -> None:
    assert errors((home / "logs" / "prefect.log").read_text()) == []


def errors(log: str) -> list[str]:
    """The entries of the server's log that are errors, hold a traceback or tell of a lost event.

    Two kinds do not count: Prefect 3.8 reads and then writes in one transaction, which SQLite
    refuses at once if another write came between, for a heartbeat of the worker, where the next one
    gets in, and for the triggers of automations, where it tries an event again.
    """
    entries = re.split(r"^(?=\d\d:\d\d:\d\d\.\d{3} \|)", log, flags=re.MULTILINE)
    tried_again = re.compile("heartbeat persistence failed|Failed in consume_loop")
    return [
        entry
        for entry in entries
        if ("| ERROR" in entry or "Traceback" in entry or "dead letter" in entry)
        and not (tried_again.search(entry) and "database is locked" in entry)
    ]
