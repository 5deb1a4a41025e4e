"""Artefacts that are damaged, and a disk that is full."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from small_run import (
    Unkilled,
    finished_at,
    hashes,
    left_half_made,
    started,
    wait_until_made,
)
from tiny_run import run_tiny

pytestmark = pytest.mark.faults
FULL = "the disk is full when training begins"
Record = Callable[[str, object], None]


@pytest.fixture(scope="module")
def whole(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a finished run."""
    home = tmp_path_factory.mktemp("whole")
    run_tiny(home, *settings)
    return home


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("fault", "change", "pattern"),
    [
        ("an artefact cut to half", cut, "trajectories/*/trajectories.parquet"),
        ("one bit of an adapter flipped", flip, "dpo/*/adapter_model.safetensors"),
    ],
)
def test_a_damaged_artefact_is_made_again_with_what_it_feeds(
    fault: str,
    change: Callable[[bytes], bytes],
    pattern: str,
    whole: Path,
    settings: list[str],
    unkilled: Unkilled,
    record_property: Record,
) -> None:
    before = finished_at(whole)
    damaged = sorted((whole / "artifacts").glob(pattern))[0]
    damaged.write_bytes(change(damaged.read_bytes()))
    result = run_tiny(whole, *settings)
    assert hashes(whole) == unkilled.hashes
    after = finished_at(whole)
    again = {path for path in after if after[path] != before[path]}
    assert damaged.parent.relative_to(whole / "artifacts").as_posix() in again
    assert len(again) == len(result["made"])
    assert not [path for path in again if path.startswith(("sft/", "corpus", "annotate"))]
    record_property(
        "fault",
        [
            fault,
            1,
            f"{len(again)} of {len(after)} made again (it and what it feeds), byte for byte",
        ],
    )


@pytest.fixture
def small_disk(tmp_path: Path, record_property: Record) -> Iterator[Path]:
    """A disk of 400 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(folder)]
    done = subprocess.run(mounting, capture_output=True, text=True)
    if done.returncode:
        reason = f"a disk cannot be mounted here: {done.stderr.strip()}"
        record_property("fault", [FULL, 0, reason])
        pytest.skip(reason)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_the_disk_is_full_when_training_begins(
    small_disk: Path, settings: list[str], unkilled: Unkilled, record_property: Record
) -> None:
    """Artefacts, databases and logs are all on it."""
    filling = small_disk / "filling"
    with started(small_disk, settings) as lines:
        wait_until_made(lines, "chain-text m1")
        fill(filling)
        said = [*lines]
    done = finished_at(small_disk)
    message = "".join(said[:-1])
    assert said[-1] == "2"
    assert "free space or set SAGE_HOME" in message
    assert "Traceback" not in message
    assert left_half_made(small_disk) == []
    filling.unlink()
    run_tiny(small_disk, *settings)
    after = finished_at(small_disk)
    assert {path: after.get(path) for path in done} == done
    assert hashes(small_disk) == unkilled.hashes
    record_property(
        "fault",
        [
            FULL,
            1,
            f"one message that says what to do, nothing half made; with space again, {len(done)} "
            f"finished artefacts kept, all {len(after)} byte for byte",
        ],
    )


def fill(path: Path) -> None:
    """Take all the space that is left."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**16))
