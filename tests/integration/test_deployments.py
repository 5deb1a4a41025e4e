"""`sage ui` and `sage deploy`: runs that are started through the server's API, as the form does."""

import json
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from tiny_run import ROOT, SAGE, environment

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

    run_through(api, deployment, deployment["parameters"], home)


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
    deadline = time.monotonic() + 400
    state = ""
    while state not in ("COMPLETED", "FAILED", "CRASHED"):
        assert time.monotonic() < deadline, f"the run is still {state} after 400 s"
        time.sleep(2)
        state = call(f"{api}/flow_runs/{run['id']}")["state_type"]
    assert state == "COMPLETED", (home / "logs" / "worker.log").read_text()[-4000:]


def call(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    deadline = time.monotonic() + 60
    while True:
        try:
            with urlopen(Request(url, data, {"Content-Type": "application/json"})) as answer:
                return json.loads(answer.read())
        except HTTPError as error:  # Prefect says 503 while SQLite is busy, and means "again"
            if error.code != 503 or time.monotonic() > deadline:
                raise
            time.sleep(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
