"""The corpus on real local clusters: the same bytes as on threads."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from benchmarks.clusters import dask_cluster, ray_cluster
from benchmarks.corpus import comment

TABLES = ("dialogues.parquet", "rejected.parquet", "funnel.json", "quarantine.jsonl")
Cluster = Callable[[], AbstractContextManager[dict[str, str]]]

pytestmark = [pytest.mark.integration, pytest.mark.slow]


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dump")
    for month in range(2):
        rows = []
        for number in range(3000):
            parent = f"t1_{month}c{number - 1}" if number % 6 else f"t3_{month}t{number // 6}"
            name, thread = f"{month}c{number}", f"t3_{month}t{number // 6}"
            text = f"I am so happy, this is a wonderful day, number {number}! And yours?"
            rows.append(json.dumps(comment(name, parent, thread, number, text)) + "\n")
        (folder / f"RC_2012-{month + 1:02}").write_text("".join(rows))
    return folder


def build(dump: Path, folder: Path, runner: str, environment: dict[str, str]) -> list[bytes]:
    done = subprocess.run(
        [
            sys.executable, "-m", "flows.cli", "corpus", "build", "--reader", "pushshift",
            "--input", str(dump), "--output", str(folder / "out"), "--runner", runner,
            "--set", "corpus.records_per_partition=1000", "--set", "corpus.min_mean_words=5",
        ],
        env={**os.environ, "SAGE_HOME": str(folder / "home"), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return [(folder / "out" / name).read_bytes() for name in TABLES]


@pytest.fixture(scope="module")
def on_threads(dump: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    tables = build(dump, tmp_path_factory.mktemp("threads"), "threads", {})
    assert json.loads(tables[2])[-1]["kept"] == 1000
    return tables


@pytest.mark.parametrize(("runner", "cluster"), [("ray", ray_cluster), ("dask", dask_cluster)])
def test_a_cluster_gives_the_bytes_of_threads(
    dump: Path, on_threads: list[bytes], tmp_path: Path, runner: str, cluster: Cluster
) -> None:
    with cluster() as environment:
        assert build(dump, tmp_path, runner, environment) == on_threads


@pytest.mark.parametrize("runner", ["ray", "dask"])
def test_a_cluster_without_an_address_is_one_message(
    dump: Path, tmp_path: Path, runner: str
) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "flows.cli", "corpus", "build", "--reader", "pushshift",
            "--input", str(dump), "--output", str(tmp_path / "out"), "--runner", runner,
        ],
        env={**os.environ, "SAGE_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "ADDRESS" in done.stderr
