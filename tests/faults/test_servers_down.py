"""Servers and databases that are gone or busy while a run goes on, and the scheduler."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest
from deployed import Served, call, finished, free_port, made, scheduled, wait_for
from small_run import Unkilled, finished_at, hashes, started, wait_until_made
from tiny_run import environment

pytestmark = pytest.mark.faults
TINY = "sage-pipeline/tiny"
DOWN_S = 60
Record = Callable[[str, object], None]


def test_prefects_server_is_restarted(
    served: Served,
    unkilled: Unkilled,
    filled_in: dict[str, Any],
    fresh: Path,
    record_property: Record,
) -> None:
    run = served.start(TINY, filled_in)
    wait_for(lambda: len(finished_at(fresh)) > 5, 600)
    before = served.servers()
    psutil.Process(before[0]["pid"]).kill()
    began = time.monotonic()
    wait_for(lambda: not answers(f"{served.api}/health"), 30)
    wait_for(lambda: answers(f"{served.api}/health"), 120)
    down = time.monotonic() - began
    assert served.servers()[0] != before[0]
    assert served.servers()[1:] == before[1:]
    assert finished(served.api, run, fresh)["run_count"] == 1
    assert hashes(fresh) == unkilled.hashes
    record_property(
        "fault",
        [
            "Prefect's server killed in the middle",
            1,
            f"started again by sage ui, {down:.0f} s away; the run went on and finished, all "
            f"{len(unkilled.hashes)} artefacts byte for byte",
        ],
    )


@pytest.mark.integration
@pytest.mark.alone
def test_mlflows_server_is_killed(served: Served, record_property: Record) -> None:
    before = served.servers()
    psutil.Process(before[1]["pid"]).kill()
    began = time.monotonic()
    wait_for(lambda: served.servers()[1] != before[1] and answers(f"{served.mlflow}/health"), 120)
    seconds = time.monotonic() - began
    now = served.servers()
    assert (now[0], now[2]) == (before[0], before[2])  # the others went on
    seen = f"started again by sage ui after {seconds:.0f} s, the others went on"
    record_property("fault", ["MLflow's pages killed", 1, seen])


@pytest.mark.integration
@pytest.mark.alone
def test_schedules_make_runs_and_fire(
    served: Served, filled_in: dict[str, Any], home: Path, record_property: Record
) -> None:
    """The weekly deployment has its next Mondays; a schedule of the tiny deployment, whose run the
    cache has, fires once."""
    api = served.api
    weekly = served.deployment("sage-retrain/weekly")
    for run in wait_for(lambda: scheduled(api, weekly["id"]), 90):
        start = datetime.fromisoformat(run["expected_start_time"])
        assert (start.weekday(), start.hour, start.minute) == (0, 3, 0)
        assert run["state_type"] == "SCHEDULED"

    finished(api, served.start(TINY, filled_in), home)
    before = made(home)
    tiny = served.deployment(TINY)
    call(f"{api}/deployments/{tiny['id']}", {"parameters": filled_in}, method="PATCH")
    # Later than the scheduler's next look, once a minute: from then on it plans the week after.
    due = datetime.now(UTC) + timedelta(seconds=90)
    schedule = {"interval": 7 * 24 * 3600, "anchor_date": due.isoformat()}
    url = f"{api}/deployments/{tiny['id']}/schedules"
    (added,) = call(url, [{"schedule": schedule, "active": True}])
    first = min(
        wait_for(lambda: scheduled(api, tiny["id"]), 85), key=lambda run: run["expected_start_time"]
    )
    assert datetime.fromisoformat(first["expected_start_time"]) == due
    run = finished(api, first["id"], home)
    started = datetime.fromisoformat(run["start_time"])
    assert run["auto_scheduled"]
    assert started >= due
    assert made(home) == before
    call(f"{url}/{added['id']}", {"active": False}, method="PATCH")
    late = (started - due).total_seconds()
    record_property("fault", ["a scheduled run", 1, f"started {late:.0f} s after its time"])


def test_mlflow_is_down_while_models_train(
    settings: list[str], unkilled: Unkilled, tmp_path: Path, record_property: Record
) -> None:
    """A server of MLflow elsewhere, as a team has it, goes away when training begins."""
    home, port = tmp_path / "home", free_port()
    url = f"http://127.0.0.1:{port}"
    with (
        mlflow_server(tmp_path, port) as kill,
        started(home, settings, MLFLOW_TRACKING_URI=url) as lines,
    ):
        wait_until_made(lines, "chain-text m1")
        kill()
        down_from = time.time()
        time.sleep(DOWN_S)
        down_to = time.time()
        with mlflow_server(tmp_path, port):
            assert [*lines][-1] == "0"
            runs = tracked_runs(url)
    trained = [path for path in finished_at(home) if path.startswith("sft/")]
    while_down = [path for path in trained if down_from < finished_at(home)[path] / 1e9 < down_to]
    assert while_down
    assert {each["status"] for each in runs.values()} == {"FINISHED"}
    assert {"m0", "raw", "m1", "m2", "dpo"} <= set(runs)
    assert all("train.loss" in runs[name]["metrics"] for name in ("raw", "m1", "m2", "dpo"))
    assert hashes(home) == unkilled.hashes
    record_property(
        "fault",
        [
            "MLflow's server down while models train",
            1,
            f"{DOWN_S} s away: {len(while_down)} model trained meanwhile, then all runs, losses "
            "and models were tracked; artefacts byte for byte",
        ],
    )


def test_mlflows_database_is_locked(
    settings: list[str], unkilled: Unkilled, tmp_path: Path, record_property: Record
) -> None:
    with started(tmp_path, settings) as lines:
        wait_until_made(lines, "chain-text m1")
        with closing(sqlite3.connect(tmp_path / "mlflow.db", timeout=60)) as other:
            other.execute("begin exclusive")
            time.sleep(DOWN_S)
            other.execute("rollback")
        assert [*lines][-1] == "0"
    runs = tracked_runs(f"sqlite:///{tmp_path}/mlflow.db")
    assert {each["status"] for each in runs.values()} == {"FINISHED"}
    assert hashes(tmp_path) == unkilled.hashes
    seen = f"locked for {DOWN_S} s: the run waited and finished, all runs tracked"
    record_property("fault", ["MLflow's database locked", 1, seen])


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[Callable[[], None]]:
    """MLflow over a database and a folder for artefacts; gives what kills it."""
    process = subprocess.Popen(
        [
            sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{folder}/team.db",
            "--artifacts-destination", (folder / "team").as_uri(),
        ],
        env={**environment(folder), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip

    def kill() -> None:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), 180)
        yield kill
    finally:
        kill()


def tracked_runs(uri: str) -> dict[str, Any]:
    """Status and metrics of every run that an MLflow store knows, by its name."""
    code = (
        "import json, mlflow\n"
        f"mlflow.set_tracking_uri({uri!r})\n"
        "client = mlflow.MlflowClient()\n"
        "ids = [each.experiment_id for each in client.search_experiments()]\n"
        "runs = client.search_runs(ids, max_results=100)\n"
        "print(json.dumps({run.info.run_name: {'status': run.info.status, "
        "'metrics': run.data.metrics} for run in runs}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found
