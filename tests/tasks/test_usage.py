"""What a finished run used, from manifests written here."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sage_core.errors import ConfigError
from sage_core.storage import ArtifactRef, ArtifactStore
from tasks.lineage import ancestry
from tasks.usage import Used, last_run


def build(
    store: ArtifactStore,
    name: str,
    label: str,
    parents: list[ArtifactRef],
    *usages: tuple[int, int],
) -> ArtifactRef:
    manifest: dict[str, Any] = {
        "stage": name.split("/")[0],
        "label": label,
        "parents": {"made_from": [asdict(parent) for parent in parents]} if parents else {},
        "cost": {
            "seconds": 1.5,
            "engines": {
                f"engine {number}": {"prompt_tokens": read, "completion_tokens": written}
                for number, (read, written) in enumerate(usages)
            },
        },
    }
    return store.build(name, lambda folder: (folder / "file").touch(), manifest)


def test_shards_add_up_and_what_two_stages_share_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    store = ArtifactStore(tmp_path / "artifacts")
    m1 = build(store, "sft/1", "m1", [])
    first = build(store, "search-shard/1", "m1 1/2", [m1], (100, 10), (7, 0))
    second = build(store, "search-shard/2", "m1 2/2", [m1], (200, 20))
    build(store, "search-shard/3", "m1 1/1", [m1], (5000, 5000))  # of another run
    figures = build(store, "figures/1", "", [first, second])
    build(store, "report/1", "", [figures, first])
    used = last_run()
    assert used["search-shard", "m1"] == Used(read=307, written=30, seconds=3.0)
    assert used["sft", "m1"] == Used(seconds=1.5)
    order = [("sft", "m1"), ("search-shard", "m1"), ("figures", ""), ("report", "")]
    assert list(used) == order  # each after what it was made from


def test_a_removed_parent_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    store = ArtifactStore(tmp_path / "artifacts")
    gone = build(store, "sft/1", "m1", [])
    child = build(store, "trajectories/1", "", [gone])
    shutil.rmtree(store.folder(gone))
    assert [path for path, _ in ancestry(store.folder(child))] == [store.folder(child)]


def test_a_home_without_a_run_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="sage run"):
        last_run()
