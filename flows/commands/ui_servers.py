"""The servers of ``sage ui``: Prefect, MLflow and a worker, on loopback, over one SAGE home."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from urllib.error import URLError
from urllib.request import urlopen

import psutil
from rich.console import Console

from flows.environment import UI_FILE, check_prefect_database, running_server
from sage_core.errors import SageError
from sage_core.storage import write_json
from tasks.home import held, sage_home
from tasks.tracking import artifact_root, prepare_database, tracking_uri

HOST = "127.0.0.1"
WORK_POOL = "sage"
_STARTUP_S = 120
_STOP_S = 10


def serve(prefect_port: int, mlflow_port: int, *, worker: bool, wait: bool) -> None:
    """Run the servers until interrupted; prints both addresses once both answer.

    The home is held until then: the servers make or migrate their databases, and a run that has a
    Prefect server of its own is not joined by a second one over the same SQLite file.
    """
    out = Console()
    home = sage_home()
    api = f"http://{HOST}:{prefect_port}/api"
    mlflow_url = f"http://{HOST}:{mlflow_port}"
    environment = {**os.environ, "PREFECT_API_URL": api, "PREFECT_UI_API_URL": api}
    logs = home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    artifact_root().mkdir(parents=True, exist_ok=True)
    processes: list[subprocess.Popen[bytes]] = []
    stopping = ExitStack()

    def start(name: str, arguments: Sequence[str]) -> None:
        with (logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that its children end with it
            )
        processes.append(process)
        stopping.callback(_stop, process)

    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore SIGINT
        signal.signal(number, _interrupt)
    try:
        with held(wait=wait):
            if address := running_server(home):
                raise SageError(f"`sage ui` runs over {home} already: Prefect is at {address}")
            check_prefect_database()
            prepare_database()
            start(
                "prefect",
                ["prefect", "server", "start", "--host", HOST, "--port", str(prefect_port)],
            )
            start(
                "mlflow",
                ["mlflow", "server", "--host", HOST, "--port", str(mlflow_port), "--workers", "1",
                 "--backend-store-uri", tracking_uri(),
                 "--artifacts-destination", artifact_root().as_uri()],
            )  # fmt: skip
            _wait_for(f"{api}/health", processes[0], f"see {logs / 'prefect.log'}")
            _wait_for(f"{mlflow_url}/health", processes[1], f"see {logs / 'mlflow.log'}")
            record = {
                "prefect_api": api,
                "mlflow": mlflow_url,
                "pid": processes[0].pid,
                "created": psutil.Process(processes[0].pid).create_time(),
            }
            write_json(home / UI_FILE, record)
            stopping.callback((home / UI_FILE).unlink, missing_ok=True)
        if worker:
            start(
                "worker",
                ["prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process",
                 "--name", "sage-ui"],
            )  # fmt: skip
        out.print(f"Prefect  http://{HOST}:{prefect_port}", highlight=False)
        out.print(f"MLflow   {mlflow_url}", highlight=False)
        if worker:
            out.print("A worker runs the deployments that `sage deploy` registers.")
        out.print(f"Logs are in {logs}; stop with Ctrl-C.", highlight=False, soft_wrap=True)
        while all(process.poll() is None for process in processes):
            time.sleep(1)
        raise SageError(f"one of the servers ended by itself; see the logs in {logs}")
    except KeyboardInterrupt:
        out.print("stopping")
    finally:
        stopping.close()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _wait_for(url: str, process: subprocess.Popen[bytes], hint: str) -> None:
    deadline = time.monotonic() + _STARTUP_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SageError(
                f"the server for {url} ended at once, perhaps because its port is taken; choose "
                f"another with --prefect-port or --mlflow-port, and {hint}"
            )
        try:
            with urlopen(url, timeout=2):  # noqa: S310 - an address of our own
                return
        except (URLError, OSError):
            time.sleep(0.5)
    raise SageError(f"{url} did not answer within {_STARTUP_S} s; {hint}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a server and everything that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(_STOP_S)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
