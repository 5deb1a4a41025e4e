"""A supervisor: runs a command, and ends it with all that it started when its parent ends it or
dies.

    python supervisor.py GRACE_S COMMAND...

:func:`start` gives the supervisor a session of its own and holds the other end of its standard
input. The pipe closes when the parent closes it (:func:`end`), and in every way that the parent can
end, ``kill -9`` included. Then every process of the session's group, and every descendant that has
left the group, gets SIGTERM and, GRACE_S seconds later, SIGKILL.

It is also a script, and imports little, so that it starts fast and stays small.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import IO

import psutil

_LOOK_S = 0.5  # how often the command is looked at
GRACE_S = 10.0  # between SIGTERM and SIGKILL
_KILLED_S = 10.0  # the longest that the system may take to end a killed process


def start(
    command: Sequence[str], stdout: int | IO[bytes], env: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Start ``command`` under a supervisor.

    Args:
        stdout: takes the command's output and errors, as for :class:`subprocess.Popen`.

    Returns:
        The supervisor, which leads the process group. Its exit status is the command's.
    """
    return subprocess.Popen(
        [sys.executable, __file__, str(GRACE_S), *command],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=env,
    )


def end(supervisor: "subprocess.Popen[bytes]") -> None:
    """End a command that :func:`start` started, with all that it started; returns when they have
    ended."""
    assert supervisor.stdin is not None
    supervisor.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        supervisor.wait(GRACE_S + _KILLED_S)
    # A supervisor that was killed itself leaves its group behind.
    with suppress(ProcessLookupError):
        os.killpg(supervisor.pid, signal.SIGKILL)
    supervisor.wait()


def main(grace_s: float, command: list[str]) -> int:
    """Run ``command``; returns its exit status if it ended by itself, else 0."""
    asked_to_stop = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True

    # A handler and not SIG_IGN, which the command would inherit.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while child.poll() is None and not asked_to_stop:
        readable, _, _ = select.select([0], [], [], _LOOK_S)
        if readable and not os.read(0, 1):
            break
    status = child.returncode
    _stop(grace_s)
    return 0 if status is None else status


def _stop(grace_s: float) -> None:
    ours = set(psutil.Process().children(recursive=True))
    for number, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, _KILLED_S)):
        ours |= _group()
        for process in ours:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        _, alive = psutil.wait_procs(ours, timeout=wait_s)
        ours = set(alive)
        if not ours | _group():
            return


def _group() -> set[psutil.Process]:
    """The other processes of this one's group, zombies left out."""
    members = set()
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):
            in_group = os.getpgid(process.pid) == os.getpgrp()
            if (
                in_group
                and process.pid != os.getpid()
                and process.info["status"] != psutil.STATUS_ZOMBIE
            ):
                members.add(process)
    return members


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
