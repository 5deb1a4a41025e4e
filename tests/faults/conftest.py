"""Faults against the real thing: runs, servers and disks that are broken while a run goes on.

Each test says what it saw by ``record_property("fault", [fault, times, seen])``; the table of them
is printed at the end, with the seconds that each took. All tests use one small run, whose artefacts
have to come out as those of a run that nothing happened to.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from deployed import Served, serve
from rich.console import Console
from rich.table import Table
from small_run import ADVANCED, OVERRIDES, Unkilled, empty, hashes
from tiny_run import run_tiny, small_base


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of the runs that are broken; the form takes models in it only."""
    home = tmp_path_factory.mktemp("faults") / "home"
    small_base(home / "data" / "base")
    return home


@pytest.fixture(scope="session")
def settings(home: Path) -> list[str]:
    """The small run's, for the command line."""
    return [f"model.base={home / 'data' / 'base'}", *OVERRIDES]


@pytest.fixture(scope="session")
def filled_in(home: Path) -> dict[str, Any]:
    """The same in the form of the deployment."""
    base = str(home / "data" / "base")
    return {"preset": "tiny", "base_model": base, "advanced": ADVANCED}


@pytest.fixture(scope="session")
def unkilled(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Unkilled:
    """A run of these settings in another home."""
    other = tmp_path_factory.mktemp("unkilled")
    began = time.monotonic()
    run_tiny(other, *settings)
    return Unkilled(hashes(other), time.monotonic() - began)


@pytest.fixture(scope="session")
def served(home: Path) -> Iterator[Served]:
    """`sage ui` over the home, with its deployments."""
    with serve(home) as served:
        served.deploy()
        yield served


@pytest.fixture
def fresh(home: Path) -> Path:
    """The home without artefacts and cached results; its databases stay."""
    empty(home)
    return home


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the table; a fault whose test failed has its row too."""
    table = Table("fault", "times", "what was seen", "s", title="Faults")
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            if not isinstance(report, pytest.TestReport):  # of a file that is skipped
                continue
            row = dict(report.user_properties).get("fault")
            if row is None and "faults" not in report.keywords:
                continue
            row = row or [report.nodeid, "", ""]
            seen = row[2] if outcome == "passed" else f"{outcome.upper()} {row[2]}"
            table.add_row(row[0], str(row[1]), seen, f"{report.duration:.0f}")
    if table.row_count:
        Console(width=140).print(table)
