"""Local clusters of two workers with a core each, as a user would start them by hand."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BIN = Path(sys.executable).parent
_STARTUP_S = 60


@contextmanager
def ray_cluster() -> Iterator[dict[str, str]]:
    """``ray start --head`` and one more worker; yields the environment that points to it."""
    address = f"127.0.0.1:{_free_port()}"
    one = ["--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats"]
    head = ["--head", f"--port={address.split(':')[1]}", "--include-dashboard=false"]
    try:
        for role in (head, [f"--address={address}"]):
            _run("ray", "start", *role, *one)
        yield {"RAY_ADDRESS": address}
    finally:
        _run("ray", "stop", "--force")


@contextmanager
def dask_cluster() -> Iterator[dict[str, str]]:
    """``dask scheduler`` and two workers; yields the environment that points to it."""
    port = _free_port()
    address = f"tcp://127.0.0.1:{port}"
    worker = ["worker", address, "--nthreads=1", "--no-dashboard"]
    commands = [["scheduler", f"--port={port}", "--no-dashboard"], worker, worker]
    started = []
    try:
        for command in commands:
            process = subprocess.Popen(
                [_BIN / "dask", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            started.append(process)
        _wait(port)
        yield {"DASK_SCHEDULER_ADDRESS": address}
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(30)


def _run(*command: str) -> None:
    subprocess.run([_BIN / command[0], *command[1:]], stdout=subprocess.DEVNULL, check=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(port: int) -> None:
    deadline = time.monotonic() + _STARTUP_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
