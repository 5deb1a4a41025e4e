"""A home with `sage ui` and deployments, spoken to through the server's API, as the UI does."""

import json
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
from tiny_run import ROOT, SAGE, environment

Found = TypeVar("Found")
ENDS = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@dataclass(frozen=True)
class Served:
    """A home over which `sage ui` runs: the addresses of Prefect's API and of MLflow."""

    home: Path
    api: str
    mlflow: str

    def deploy(self) -> str:
        """`sage deploy`; what it says."""
        return sage(self.home, "deploy").stdout

    def deployment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = call(f"{self.api}/deployments/name/{name}")
        return found

    def start(self, deployment: str, parameters: dict[str, Any]) -> str:
        """Start a deployment as the form of the UI does; the id of its run."""
        return start(self.api, self.deployment(deployment), parameters)

    def run(self, run: str) -> dict[str, Any]:
        """A flow run as the server knows it."""
        found: dict[str, Any] = call(f"{self.api}/flow_runs/{run}")
        return found

    def servers(self) -> list[dict[str, Any]]:
        """The processes of Prefect, MLflow and the worker."""
        found: list[dict[str, Any]] = json.loads((self.home / "ui.json").read_text())["processes"]
        return found


@contextmanager
def serve(home: Path, **variables: str) -> Iterator[Served]:
    """`sage ui` over ``home``, which ends well when the block does."""
    ports = [free_port(), free_port()]
    arguments = ["ui", "--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1])]
    process = subprocess.Popen(
        [*SAGE, *arguments],
        cwd=ROOT,
        env={**environment(home), **variables},
        stdout=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: process.poll() is not None or _serves(home, process.pid), 300)
        assert process.poll() is None
        yield Served(home, f"http://127.0.0.1:{ports[0]}/api", f"http://127.0.0.1:{ports[1]}")
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            assert process.wait(120) == 0


def _serves(home: Path, ui: int) -> bool:
    try:
        return bool(json.loads((home / "ui.json").read_text())["ui"]["pid"] == ui)
    except (OSError, ValueError):  # not there, or being written
        return False


def sage(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of `sage` that has to succeed."""
    done = subprocess.run(
        [*SAGE, *arguments], cwd=ROOT, env=environment(home), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done


def processes_of(run: str) -> list[psutil.Process]:
    """The live processes of a flow run, the oldest first: they carry its id."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.status() != psutil.STATUS_ZOMBIE
                and process.environ().get("PREFECT__FLOW_RUN_ID") == run
            ):
                found.append(process)
        except psutil.Error:
            continue
    return sorted(found, key=lambda process: process.create_time())


def scheduled(api: str, deployment: str) -> list[dict[str, Any]]:
    """The runs of a deployment that the server's scheduler has made."""
    query = {"deployments": {"id": {"any_": [deployment]}}}
    runs = call(f"{api}/flow_runs/filter", query)
    return [run for run in runs if run["auto_scheduled"]]


def wait_for(look: Callable[[], Found], seconds: float) -> Found:
    """What ``look`` gives, as soon as it is something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"nothing in {seconds} s"
        time.sleep(0.5)
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


def ended(api: str, run: str, ends: tuple[str, ...] = ENDS) -> dict[str, Any]:
    """Wait for the end of a run."""

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = call(f"{api}/flow_runs/{run}")
        return found if found["state_type"] in ends else None

    found = wait_for(look, 1200)
    assert found is not None
    return found


def call(url: str, body: Any = None, method: str | None = None) -> Any:
    """The answer of a server. A refused connection is waited out too: tests restart servers."""
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
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
