"""`sage ui` and `sage deploy`: runs that are started through the server's API, as the form does."""

import json
import re
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest
from tiny_run import ROOT, SAGE, environment, small_base

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def servers(home: Path) -> Iterator[tuple[str, str]]:
    """`sage ui` over the same home: the addresses of Prefect's API and of MLflow."""
    ports = [free_port(), free_port()]
    arguments = ["ui", "--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1])]
    process = subprocess.Popen(
        [*SAGE, *arguments], cwd=ROOT, env=environment(home), stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not (home / "ui.json").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline, "sage ui did not start in 120 s"
            time.sleep(0.5)
        for child in psutil.Process(process.pid).children(recursive=True):
            names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
            values = [child.environ()[name] for name in names]
            assert values == ["PASSIVE", "10000"], child.cmdline()
        yield f"http://127.0.0.1:{ports[0]}/api", f"http://127.0.0.1:{ports[1]}"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_a_deployed_run_started_through_the_api_goes_through(
    home: Path, servers: tuple[str, str]
) -> None:
    api, mlflow = servers
    with urlopen(f"{mlflow}/health") as answer:
        assert answer.status == 200
    subprocess.run([*SAGE, "deploy"], cwd=ROOT, env=environment(home), check=True)
    deployment = call(f"{api}/deployments/name/sage-pipeline/tiny")
    form = deployment["parameter_openapi_schema"]["definitions"]["CorpusConfig"]["properties"]
    assert "min_sentiment" in form
    weekly = call(f"{api}/deployments/name/sage-one-more-round/weekly-refinement")
    assert [schedule["schedule"]["cron"] for schedule in weekly["schedules"]] == ["0 3 * * 1"]

    # The form with another base model, as its user may fill it in: a small one, since what is
    # tested here lies around the stages.
    parameters = deployment["parameters"]
    parameters["config"]["model"]["base"] = str(small_base(home / "base"))
    call(f"{api}/deployments/{deployment['id']}", {"parameters": parameters}, method="PATCH")
    run_through(api, deployment, parameters, home)


def test_a_second_ui_over_the_home_is_refused(home: Path, servers: tuple[str, str]) -> None:
    arguments = ["ui", "--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]
    done = subprocess.run(
        [*SAGE, *arguments], cwd=ROOT, env=environment(home), capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert servers[0] in done.stderr
    assert (home / "ui.json").exists()  # still the first one's


def test_schedules_make_runs_and_fire(home: Path, servers: tuple[str, str]) -> None:
    """The weekly deployment has its next Mondays; a schedule of the tiny deployment, whose run the
    cache has, fires once."""
    api, _ = servers
    weekly = call(f"{api}/deployments/name/sage-one-more-round/weekly-refinement")
    coming = wait_for(lambda: scheduled(api, weekly["id"]), 90)
    for run in coming:
        start = datetime.fromisoformat(run["expected_start_time"])
        assert (start.weekday(), start.hour, start.minute) == (0, 3, 0)
        assert run["state_type"] == "SCHEDULED"

    tiny = call(f"{api}/deployments/name/sage-pipeline/tiny")
    # Later than the scheduler's next look, once a minute: from then on it plans the week after.
    due = datetime.now(UTC) + timedelta(seconds=90)
    schedule = {"interval": 7 * 24 * 3600, "anchor_date": due.isoformat()}
    url = f"{api}/deployments/{tiny['id']}/schedules"
    (made_,) = call(url, [{"schedule": schedule, "active": True}])
    first = min(
        wait_for(lambda: scheduled(api, tiny["id"]), 80), key=lambda run: run["expected_start_time"]
    )
    assert datetime.fromisoformat(first["expected_start_time"]) == due
    before = made(home)
    run = finished(api, first["id"], home)
    assert run["auto_scheduled"]
    assert datetime.fromisoformat(run["start_time"]) >= due
    assert made(home) == before
    call(f"{url}/{made_['id']}", {"active": False}, method="PATCH")


def test_one_more_round_goes_on_from_the_last_finished_run(
    home: Path, servers: tuple[str, str]
) -> None:
    api, _ = servers
    tiny = call(f"{api}/deployments/name/sage-pipeline/tiny")
    weekly = call(f"{api}/deployments/name/sage-one-more-round/weekly-refinement")
    before = made(home)
    run_through(api, weekly, tiny["parameters"], home)
    assert {name: made(home)[name] - before[name] for name in ("sft", "dpo")} == {
        "sft": 1,  # m4; all models before it come from the cache
        "dpo": 1,
    }


def test_the_servers_log_has_no_error(home: Path, servers: tuple[str, str]) -> None:
    assert errors((home / "logs" / "prefect.log").read_text()) == []


def errors(log: str) -> list[str]:
    """The entries of the server's log that are errors or hold a traceback.

    One kind does not count: Prefect 3.8 reads and then writes in one transaction for a heartbeat of
    the worker, which SQLite refuses at once if another write came between; the next one gets in.
    """
    entries = re.split(r"^(?=\d\d:\d\d:\d\d\.\d{3} \|)", log, flags=re.MULTILINE)
    return [
        entry
        for entry in entries
        if ("| ERROR" in entry or "Traceback" in entry)
        and not ("heartbeat persistence failed" in entry and "database is locked" in entry)
    ]


def scheduled(api: str, deployment: str) -> list[dict[str, Any]]:
    """The runs of a deployment that the server's scheduler has made."""
    query = {"deployments": {"id": {"any_": [deployment]}}}
    runs = call(f"{api}/flow_runs/filter", query)
    return [run for run in runs if run["auto_scheduled"]]


def wait_for(look: Callable[[], list[dict[str, Any]]], seconds: float) -> list[dict[str, Any]]:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"nothing in {seconds} s"
        time.sleep(1)
    return found


def made(home: Path) -> Counter[str]:
    """How many artefacts of each stage lie in the store."""
    return Counter(path.parents[1].name for path in (home / "artifacts").glob("*/*/manifest.json"))


def run_through(
    api: str, deployment: dict[str, Any], parameters: dict[str, Any], home: Path
) -> None:
    """Start a deployment as the form of the UI does, and wait for its end."""
    run = call(
        f"{api}/deployments/{deployment['id']}/create_flow_run",
        {"parameters": parameters, "state": {"type": "SCHEDULED"}},
    )
    finished(api, run["id"], home)


def finished(api: str, run: str, home: Path) -> dict[str, Any]:
    """Wait for the end of a run, which has to go through."""
    deadline = time.monotonic() + 900
    found: dict[str, Any] = {"state_type": ""}
    while found["state_type"] not in ("COMPLETED", "FAILED", "CRASHED"):
        assert time.monotonic() < deadline, f"the run is still {found['state_type']} after 900 s"
        time.sleep(2)
        found = call(f"{api}/flow_runs/{run}")
    assert found["state_type"] == "COMPLETED", (home / "logs" / "worker.log").read_text()[-4000:]
    return found


def call(url: str, body: Any = None, method: str | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    kind = {"Content-Type": "application/json"}
    deadline = time.monotonic() + 60
    while True:
        try:
            with urlopen(Request(url, data, kind, method=method)) as answer:
                return json.loads(answer.read() or "null")
        except HTTPError as error:  # Prefect says 503 while SQLite is busy, and means "again"
            if error.code != 503 or time.monotonic() > deadline:
                raise
            time.sleep(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
