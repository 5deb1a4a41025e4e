"""The SAGE home: the folder of the artefacts, the Prefect database and the MLflow database.

One process at a time writes into a home. :func:`held` is the lock for that: `sage run`, the flows
of deployments and the commands of single stages take it for their whole run, `sage ui` until its
servers have made their databases. It is a ``flock``, so the kernel releases it when its holder
dies, ``kill -9`` included.
"""

import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from sage_core.errors import SageError
from sage_core.storage import ArtifactStore, write_json
from tasks.mirror import open_store

_LOCK = "lock"
_HOLDER = "lock.json"  # who holds it; only a message reads this
_ID = "id"
_POLL_S = 0.5


class HomeInUseError(SageError):
    """Another process holds the home, and the caller does not want to wait."""


def sage_home() -> Path:
    """``SAGE_HOME``, by default ``.sage`` in the working directory; absolute."""
    return Path(os.environ.get("SAGE_HOME", ".sage")).resolve()


def store() -> ArtifactStore:
    """The artefact store of the home, with the mirror that the environment names."""
    return open_store(sage_home() / "artifacts")


def mlflow_database() -> Path:
    """The MLflow database of the home."""
    return sage_home() / "mlflow.db"


def home_id() -> str:
    """A name of this home that no other has; made on first use, by the holder of the lock."""
    path = sage_home() / _ID
    found = path.read_text() if path.exists() else ""
    if not found:  # a process that was killed may have left an empty file
        found = uuid4().hex
        path.write_text(found)
    return found


@contextmanager
def held(
    command: str | None = None,
    *,
    wait: bool = True,
    say: Callable[[str], object] | None = None,
) -> Iterator[None]:
    """Hold the lock of the home for the block; within a block of this process, do nothing.

    Args:
        command: what others are told of the holder; by default this process's command line.
        wait: wait while another process holds the home.
        say: where the message goes that says for whom it waits; by default standard error.

    Raises:
        HomeInUseError: another process holds the home, and ``wait`` is False.
    """
    home = sage_home()
    home.mkdir(parents=True, exist_ok=True)
    # One instance a process: its counter makes inner blocks free, in whichever thread they run.
    lock = FileLock(home / _LOCK, thread_local=False, is_singleton=True)
    if lock.is_locked:
        with lock:
            yield
        return
    try:
        lock.acquire(blocking=False)
    except Timeout:
        holder = f"the SAGE home {home} is in use by {_holder(home)}"
        if not wait:
            raise HomeInUseError(
                f"{holder}; wait for it to end, or set SAGE_HOME to another folder"
            ) from None
        (say or _to_stderr)(f"{holder}; waiting for it to end")
        lock.acquire(poll_interval=_POLL_S)
    try:
        write_json(
            home / _HOLDER,
            {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "command": command or shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
                "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            },
        )
        yield
    finally:
        (home / _HOLDER).unlink(missing_ok=True)
        lock.release()


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def _holder(home: Path) -> str:
    """The holder in words; it may have ended, or not have written its record yet."""
    try:
        record: dict[str, Any] = json.loads((home / _HOLDER).read_text())
        return "`{command}` (process {pid} on {host}, since {since})".format(**record)
    except (OSError, ValueError, KeyError):
        return "another process"
