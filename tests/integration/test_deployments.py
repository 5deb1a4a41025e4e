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

pytestmark = [pytest.mark.integration, pytest.mark.alone]


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


@pytest.fixture(scope="module")
def filled_in(home: Path) -> dict[str, Any]:
    """The form with another base model, as its user may fill it in: a small one, since what is
    tested here lies around the stages."""
    return {"preset": "tiny", "base_model": str(small_base(home / "base"))}


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
    assert "made the automation" in said[0]
    assert "made the automation" not in said[1]
    deployment = call(f"{api}/deployments/name/sage-pipeline/tiny")
    assert len(deployment["parameter_openapi_schema"]["properties"]) == 8
    weekly = call(f"{api}/deployments/name/sage-retrain/weekly")
    assert [schedule["schedule"]["cron"] for schedule in weekly["schedules"]] == ["0 3 * * 1"]

    with pytest.raises(HTTPError) as refused:
        start(api, deployment, {**filled_in, "overrides": ["serch.candidates=8"]})
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


def test_schedules_make_runs_and_fire(home: Path, servers: tuple[str, str]) -> None:
    """The weekly deployment has its next Mondays; a schedule of the tiny deployment, whose run the
    cache has, fires once."""
    api, _ = servers
    weekly = call(f"{api}/deployments/name/sage-retrain/weekly")
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


def test_a_server_that_is_killed_is_started_again(home: Path, servers: tuple[str, str]) -> None:
    _, mlflow = servers
    first = json.loads((home / "ui.json").read_text())["processes"]
    psutil.Process(first[1]["pid"]).send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 120
    while True:
        assert time.monotonic() < deadline
        time.sleep(1)
        now = json.loads((home / "ui.json").read_text())["processes"]
        try:
            with urlopen(f"{mlflow}/health", timeout=5) as answer:
                if now[1] != first[1] and answer.status == 200:
                    break
        except OSError:
            continue
    assert (now[0], now[2]) == (first[0], first[2])  # the others went on


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


def start(api: str, deployment: dict[str, Any], parameters: dict[str, Any]) -> str:
    """Start a deployment as the form of the UI does."""
    run = call(
        f"{api}/deployments/{deployment['id']}/create_flow_run",
        {"parameters": parameters, "state": {"type": "SCHEDULED"}},
    )
    return str(run["id"])


def finished(api: str, run: str, home: Path) -> dict[str, Any]:
    """Wait for the end of a run, which has to go through."""
    found = ended(api, run)
    assert found["state_type"] == "COMPLETED", (home / "logs" / "worker.log").read_text()[-4000:]
    return found


def ended(api: str, run: str) -> dict[str, Any]:
    """Wait for the end of a run."""
    deadline = time.monotonic() + 900
    found: dict[str, Any] = {"state_type": ""}
    while found["state_type"] not in ("COMPLETED", "FAILED", "CRASHED"):
        assert time.monotonic() < deadline, f"the run is still {found['state_type']} after 900 s"
        time.sleep(2)
        found = call(f"{api}/flow_runs/{run}")
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
