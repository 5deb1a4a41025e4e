"""The servers of ``sage ui``: Prefect, MLflow and a worker, on loopback, over one SAGE home.

A server that ends by itself is started again while the others go on. What a worker leaves behind
ends with it: without a worker, the process of a flow run can no longer be cancelled.
"""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import psutil
from rich.console import Console

from flows.environment import UI_FILE, check_prefect_database, running_server
from sage_core.errors import SageError
from sage_core.storage import read_json, write_json
from tasks.home import held, sage_home
from tasks.tracking_store import artifact_root, prepare_database, tracking_uri

HOST = "127.0.0.1"
WORK_POOL = "sage"
_STARTUP_S = 120
_STOP_S = 10
_LOOK_S = 1.0
_RESTARTS = 5  # within _RESTARTS_S; then the server stays down
_RESTARTS_S = 600
_HEARTBEAT_S = "30"


@dataclass
class Server:
    """A server that is started again when it ends.

    Attributes:
        family: it and all that it has started, as far as seen.
    """

    name: str
    arguments: Sequence[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    family: set[psutil.Process] = field(default_factory=set)
    ends: deque[float] = field(default_factory=lambda: deque(maxlen=_RESTARTS))

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self.arguments],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C of the terminal is for this process only
            )
        self.family = {psutil.Process(self.process.pid)}

    def look(self) -> bool:
        """Whether it runs; remembers what it has started."""
        if self.process is None or self.process.poll() is not None:
            return False
        try:
            self.family |= {*psutil.Process(self.process.pid).children(recursive=True)}
        except psutil.NoSuchProcess:
            return False
        self.family = {each for each in self.family if each.is_running()}
        return True

    def restart(self) -> bool:
        """End what is left of it and start it again; False if it has ended too often."""
        end(self.family)
        self.ends.append(time.monotonic())
        if len(self.ends) == _RESTARTS and self.ends[-1] - self.ends[0] < _RESTARTS_S:
            self.process = None
            return False
        self.start()
        return True

    def stop(self) -> None:
        self.look()
        end(self.family)


def serve(prefect_port: int, mlflow_port: int, *, worker: bool, wait: bool) -> None:
    """Run the servers until interrupted; prints both addresses once both answer.

    The home is held until then: the servers make or migrate their databases, and a run that has a
    Prefect server of its own is not joined by a second one over the same SQLite file.
    """
    out = Console()
    home = sage_home()
    api = f"http://{HOST}:{prefect_port}/api"
    mlflow_url = f"http://{HOST}:{mlflow_port}"
    logs = home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    artifact_root().mkdir(parents=True, exist_ok=True)
    servers = _servers(prefect_port, mlflow_port, api, logs)
    running = servers[: 3 if worker else 2]

    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs ignore SIGINT
        signal.signal(number, _interrupt)
    mine = False
    try:
        with held(wait=wait):
            _end_orphans(home)
            if address := running_server(home):
                raise SageError(f"`sage ui` runs over {home} already: Prefect is at {address}")
            check_prefect_database()
            prepare_database()
            for server in servers[:2]:
                server.start()
            _wait_for(f"{api}/health", servers[0])
            _wait_for(f"{mlflow_url}/health", servers[1])
            mine = True
            _record(home, api, mlflow_url, running)
        if worker:
            servers[2].start()
        out.print(f"Prefect  http://{HOST}:{prefect_port}", highlight=False)
        out.print(f"MLflow   {mlflow_url}", highlight=False)
        if worker:
            out.print("A worker runs the deployments that `sage deploy` registers.")
        out.print(f"Logs are in {logs}; stop with Ctrl-C.", highlight=False, soft_wrap=True)
        while running:
            _record(home, api, mlflow_url, running)
            time.sleep(_LOOK_S)
            for server in [each for each in running if not each.look()]:
                said = f"{server.name} ended by itself; see {server.log}."
                if server.restart():
                    out.print(f"{said} It was started again.", highlight=False, soft_wrap=True)
                else:
                    running.remove(server)
                    out.print(f"{said} It ended {_RESTARTS} times and stays down.", soft_wrap=True)
        raise SageError(f"all servers ended by themselves; see the logs in {logs}")
    except KeyboardInterrupt:
        out.print("stopping")
    finally:
        for server in reversed(servers):
            server.stop()
        if mine:
            (home / UI_FILE).unlink(missing_ok=True)


def end(processes: Iterable[psutil.Process]) -> None:
    """End processes that may be gone already: politely first, so that a flow run can say that it
    was ended."""
    left = [each for each in processes if each.is_running()]
    for number in (signal.SIGTERM, signal.SIGKILL):
        for each in left:
            try:
                each.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        _, left = psutil.wait_procs(left, _STOP_S)


def _servers(prefect_port: int, mlflow_port: int, api: str, logs: Path) -> list[Server]:
    environment = {
        # Seven processes of MLflow for jobs that nothing here starts.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **os.environ,
        "PREFECT_API_URL": api,
        "PREFECT_UI_API_URL": api,
        # A flow run without them counts as killed: `sage deploy` makes what listens.
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": _HEARTBEAT_S,
    }
    prefect = ["prefect", "server", "start", "--host", HOST, "--port", str(prefect_port)]
    mlflow = [
        "mlflow", "server", "--host", HOST, "--port", str(mlflow_port), "--workers", "1",
        "--backend-store-uri", tracking_uri(),
        "--artifacts-destination", artifact_root().as_uri(),
    ]  # fmt: skip
    worker = ["prefect", "worker", "start", "--pool", WORK_POOL, "--type", "process",
              "--name", "sage-ui"]  # fmt: skip
    return [
        Server(name, arguments, environment, logs / f"{name}.log")
        for name, arguments in (("prefect", prefect), ("mlflow", mlflow), ("worker", worker))
    ]


def _record(home: Path, api: str, mlflow: str, servers: Sequence[Server]) -> None:
    """Write down the addresses and who answers there, if that has changed."""
    processes = [server.process for server in servers if server.process]
    record = {
        "prefect_api": api,
        "mlflow": mlflow,
        **_identity(processes[0].pid),
        "ui": _identity(os.getpid()),
        "processes": [_identity(each.pid) for each in processes],
    }
    path = home / UI_FILE
    if not path.exists() or read_json(path) != record:
        write_json(path, record)


def _identity(pid: int) -> dict[str, Any]:
    """A process by its number and the time when it was made: numbers are used again."""
    try:
        return {"pid": pid, "created": psutil.Process(pid).create_time()}
    except psutil.NoSuchProcess:
        return {"pid": pid, "created": 0.0}


def _end_orphans(home: Path) -> None:
    """End the servers of a `sage ui` over this home that was killed."""
    try:
        record = read_json(home / UI_FILE)
        if _found(record["ui"]):
            return
        orphans = [found for each in record["processes"] if (found := _found(each))]
    except (SageError, KeyError, TypeError):
        return
    end({*orphans, *(child for each in orphans for child in each.children(recursive=True))})


def _found(identity: dict[str, Any]) -> psutil.Process | None:
    try:
        process = psutil.Process(identity["pid"])
        return process if process.create_time() == identity["created"] else None
    except psutil.NoSuchProcess:
        return None


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _wait_for(url: str, server: Server) -> None:
    deadline = time.monotonic() + _STARTUP_S
    while time.monotonic() < deadline:
        if not server.look():
            raise SageError(
                f"the server for {url} ended at once, perhaps because its port is taken; choose "
                f"another with --prefect-port or --mlflow-port, and see {server.log}"
            )
        try:
            with urlopen(url, timeout=2):  # noqa: S310 - an address of our own
                return
        except (URLError, OSError):
            time.sleep(0.5)
    raise SageError(f"{url} did not answer within {_STARTUP_S} s; see {server.log}")
