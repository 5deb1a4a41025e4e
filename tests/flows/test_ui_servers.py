"""Servers that end by themselves, with real processes."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from flows.commands import ui_servers
from flows.commands.ui_servers import Server
from sage_core.storage import write_json

PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
time.sleep(600)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server with a child that has a session of its own, as a worker's flow runs have."""
    (tmp_path / "a_parent.py").write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    server = Server("worker", ["a_parent"], environment, tmp_path / "log")
    server.start()
    wait_for(lambda: server.look() and len(server.family) == 2)
    yield server
    server.stop()


def wait_for(found: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill(server: Server) -> None:
    assert server.process
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()


def test_one_that_was_killed_is_started_again_and_its_orphans_end(server: Server) -> None:
    before = set(server.family)
    kill(server)
    assert not server.look()
    (orphan,) = [each for each in before if each.is_running()]
    assert server.restart()
    assert not orphan.is_running()
    assert server.look()
    assert not before & server.family


def test_one_that_ends_again_and_again_stays_down(server: Server) -> None:
    outcomes = []
    for _ in range(ui_servers._RESTARTS):
        kill(server)
        outcomes.append(server.restart())
    assert outcomes == [True] * (ui_servers._RESTARTS - 1) + [False]
    assert not server.look()


def test_stop_ends_what_it_has_started_too(server: Server) -> None:
    family = set(server.family)
    server.stop()
    assert [each for each in family if each.is_running()] == []


def test_the_servers_of_a_ui_that_was_killed_end(server: Server, tmp_path: Path) -> None:
    """Unless it still runs, or their numbers are other processes' by now."""
    assert server.process
    server_record = ui_servers._identity(server.process.pid)
    live = ui_servers._identity(os.getpid())
    dead = {**live, "created": 1.0}
    for ui, processes in ((live, [server_record]), (dead, [{**server_record, "created": 1.0}])):
        write_json(tmp_path / "ui.json", {"ui": ui, "processes": processes})
        ui_servers._end_orphans(tmp_path)
        assert server.look()
    write_json(tmp_path / "ui.json", {"ui": dead, "processes": [server_record]})
    family = {psutil.Process(each.pid) for each in server.family}
    ui_servers._end_orphans(tmp_path)
    server.process.wait(10)
    assert [each for each in family if each.is_running()] == []
