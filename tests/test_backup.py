"""The commands of docs/services.md that back a home up, restore it and make secrets, as they are
printed."""

import os
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from sage_core.storage import ArtifactRef
from tasks import databases
from tasks.home import held, mlflow_database, sage_home, store

DOCKER = Path(__file__).parents[1] / "docker"
PAGE = (DOCKER.parent / "docs" / "services.md").read_text()


def command(name: str) -> str:
    found = re.search(rf"<!-- tested: {name} -->\n```\n(.*?)```", PAGE, re.DOTALL)
    assert found, name
    return found[1]


def run(name: str, folder: Path) -> int:
    return subprocess.run(
        ["bash", "-euc", command(name)], cwd=folder, env={**os.environ}
    ).returncode


@pytest.fixture
def artefact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactRef:
    """A small home with an artefact, a database and an unfinished stage."""
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "a home"))
    with held():
        (sage_home() / "work").mkdir(parents=True)
        (sage_home() / "work" / "half").write_text("half")
        with sqlite3.connect(mlflow_database()) as database:
            database.execute("create table runs (name text)")
            database.execute("create table alembic_version (version_num text)")
            database.execute("insert into runs values ('m1')")
        ref = store().build("sft/1", lambda folder: (folder / "file").touch(), {})
    return ref


def test_a_home_comes_back_whole(artefact: ArtifactRef, tmp_path: Path) -> None:
    assert run("back up", tmp_path) == 0
    shutil.rmtree(sage_home())
    assert run("restore", tmp_path) == 0
    assert store().verify(artefact)
    assert databases.fault(mlflow_database()) is None
    with sqlite3.connect(mlflow_database()) as database:
        assert database.execute("select name from runs").fetchall() == [("m1",)]
    assert not (sage_home() / "work").exists()
    with held(wait=False):
        pass  # the next run can start


def test_a_home_that_a_run_holds_is_not_copied(artefact: ArtifactRef, tmp_path: Path) -> None:
    with held():
        assert run("back up", tmp_path) == 1
    assert not (tmp_path / "backup.tar.gz").exists()


def test_every_secret_is_filled_in_with_one_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    example = DOCKER / ".env.example"
    shutil.copy(example, tmp_path / "docker")
    assert run("secrets", tmp_path) == 0
    made = tmp_path / "docker" / ".env"
    values = dict(line.split("=", 1) for line in made.read_text().splitlines())
    asked = re.findall(r"^(\w+)=$", example.read_text(), re.MULTILINE)
    assert list(values) == asked
    assert len(set(values.values())) == len(asked)
    assert all(re.fullmatch(r"[\w-]{32}", value) for value in values.values())
    assert made.stat().st_mode & 0o077 == 0
