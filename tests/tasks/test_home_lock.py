"""The lock of a home, with real processes that hold it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import sage
from typer.testing import CliRunner

from flows.cli import app
from tasks import home
from tasks.home import HomeInUseError, held

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
from tasks.home import held
with held("sage run --preset huge"):
    print("held", flush=True)
    sys.stdin.readline()
"""
TRY = "from tasks.home import held\nwith held(wait=False): print('taken')"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@contextmanager
def holder() -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the home until it is sent a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def can_be_taken() -> bool:
    """Whether another process could hold the home now."""
    done = subprocess.run([sys.executable, "-c", TRY], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 or "HomeInUseError" in done.stderr, done.stderr
    return done.stdout == "taken\n"


def test_the_second_ends_at_once_and_names_the_holder(folder: Path) -> None:
    with holder() as process:
        since = json.loads((folder / "lock.json").read_text())["since"]
        with pytest.raises(HomeInUseError) as error, held(wait=False):
            pass
    for part in (str(folder), "`sage run --preset huge`", f"process {process.pid} ", since):
        assert part in str(error.value)


def test_the_second_waits_and_says_for_whom() -> None:
    said: list[str] = []
    with holder() as process:

        def let_go(text: str) -> None:
            said.append(text)
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

        with held(say=let_go):
            assert process.wait(10) == 0
    (text,) = said
    assert f"process {process.pid} " in text


def test_a_holder_that_is_killed_lets_go(folder: Path) -> None:
    with holder() as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (folder / "lock.json").exists()  # left behind; it must not count
        with held("mine", wait=False):
            record = json.loads((folder / "lock.json").read_text())
            assert (record["pid"], record["command"]) == (os.getpid(), "mine")
    assert not (folder / "lock.json").exists()


def test_inner_blocks_are_free_and_keep_the_lock() -> None:
    with held():
        with held(wait=False):
            pass
        ended = []

        def in_a_thread() -> None:
            with held(wait=False):
                ended.append(True)

        thread = threading.Thread(target=in_a_thread)
        thread.start()
        thread.join(10)
        assert ended
        assert not can_be_taken()


def test_it_is_free_after_the_block_and_after_an_error() -> None:
    with held():
        assert not can_be_taken()
    assert can_be_taken()
    with pytest.raises(ZeroDivisionError), held():
        _ = 1 / 0
    assert can_be_taken()


def test_homes_do_not_share_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with holder():
        monkeypatch.setenv("SAGE_HOME", str(tmp_path / "other"))
        with held(wait=False):
            assert not can_be_taken()
            assert (tmp_path / "other" / "lock.json").exists()


def test_a_home_keeps_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with held():
        first = home.home_id()
        assert first == home.home_id()
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "other"))
    with held():
        assert home.home_id() != first


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--preset", "tiny"],
        ["annotate", "--input", "x", "--output", "y"],
        ["search", "--output", "y"],
        ["train", "sft", "--input", "x", "--output", "y"],
        ["train", "dpo", "--input", "x", "--output", "y", "--parent", "z"],
        ["judge", "run", "a", "b", "--output", "y"],
        ["corpus", "build", "--output", "y", "--runner", "threads"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_commands_that_write_into_the_home_take_its_lock(arguments: list[str]) -> None:
    with holder():
        done = CliRunner().invoke(app, [*arguments, "--no-wait"])
    assert isinstance(done.exception, HomeInUseError), done.output


def test_no_wait_is_one_message_and_exit_code_2(folder: Path) -> None:
    with holder() as process:
        done = sage("run", "--preset", "tiny", "--no-wait", home=folder, COLUMNS="300")
    assert done.returncode == 2, done.stderr
    assert f"process {process.pid} " in done.stderr
