"""The MLflow database of a home, made and looked at by MLflow itself."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pytest

from sage_core.config.loading import load_config
from sage_core.errors import ArtifactError
from tasks import databases, tracking
from tasks.home import held, mlflow_database

ROOT = Path(__file__).parents[2]
MAKE = "from tasks import tracking\nprint('go', flush=True)\ntracking.prepare_database()"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as the first run of a home makes it."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("SAGE_HOME", str(folder))
        with held():
            tracking.prepare_database()
    return folder / "mlflow.db"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def break_(path: Path) -> None:
    """What two migrations at once leave behind."""
    with sqlite3.connect(path) as database:
        database.execute("create table _alembic_tmp_metrics (key text)")


def test_what_is_made_is_whole_and_opens(made: Path) -> None:
    assert databases.fault(made) is None
    assert [path.name for path in made.parent.glob("mlflow.db*")] == ["mlflow.db"]
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{made}")
    assert client.search_registered_models() == []


def test_a_kill_during_its_making_leaves_nothing_that_counts(home: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE], cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not (home / "mlflow.db.unfinished").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not mlflow_database().exists()
    tracking.prepare_database()
    assert databases.fault(mlflow_database()) is None
    assert list(home.glob("mlflow.db.unfinished*")) == []


def test_a_broken_one_is_refused_with_the_fix(home: Path, made: Path) -> None:
    shutil.copy(made, home / "mlflow.db")
    break_(home / "mlflow.db")
    with pytest.raises(ArtifactError, match="_alembic_tmp_metrics") as error:
        tracking.prepare_database()
    assert f"mv '{home / 'mlflow.db'}'" in str(error.value)


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"", "no tables"), (b"not a database" * 100, "cannot be read")],
)
def test_other_faults(home: Path, content: bytes, fault: str) -> None:
    (home / "mlflow.db").write_bytes(content)
    assert fault in str(databases.fault(home / "mlflow.db"))


def test_a_damaged_page_is_found(home: Path, made: Path) -> None:
    content = bytearray(made.read_bytes())
    content[8192 : 8192 + 4096] = b"\xff" * 4096
    (home / "mlflow.db").write_bytes(content)
    assert databases.fault(home / "mlflow.db")


def test_doctor_opens_both_databases(home: Path, made: Path) -> None:
    shutil.copy(made, home / "mlflow.db")
    (home / "prefect").mkdir()
    shutil.copy(made, home / "prefect" / "prefect.db")
    break_(home / "prefect" / "prefect.db")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "doctor", "--preset", "tiny", "--json"],
        cwd=ROOT, capture_output=True, text=True, env=kept,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    checks = {check["what"]: check for check in json.loads(done.stdout)}
    assert checks["MLflow database"]["ok"]
    assert not checks["Prefect database"]["ok"]
    assert "_alembic_tmp_metrics" in checks["Prefect database"]["found"]
    assert "prefect.db.broken" in checks["Prefect database"]["fix"]


def test_only_a_run_of_the_same_home_is_taken_up_again(
    home: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two homes that share an MLflow server: one's live run is not the other's."""
    shutil.copy(made, tmp_path / "shared.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'shared.db'}")
    config = load_config("tiny")
    with held():
        first = tracking.Tracker(config).run_id
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "other"))
    with held():
        assert tracking.Tracker(config).run_id != first
    monkeypatch.setenv("SAGE_HOME", str(home))
    with held():
        assert tracking.Tracker(config).run_id == first
    assert not mlflow_database().exists()
