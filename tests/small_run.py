"""The small run that faults are tried on, and what a home has of it."""

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tiny_run import ROOM, ROOT, SAGE, environment, settings_of

ADVANCED = {
    **ROOM,
    "refine": {"rounds": 1},
    "steering_report": {"emotions": ["playful"], "situations": 1},
    "search": {**ROOM["search"], "grammar_probe": 1},
}
"""Its settings in the form of the deployment; :data:`OVERRIDES` are they for the command line."""
OVERRIDES = settings_of(ADVANCED)
SEED = 0  # of the random moments


@dataclass(frozen=True)
class Unkilled:
    """A small run that nothing happened to: the hash of each artefact by path, and its seconds."""

    hashes: dict[str, str]
    seconds: float


def empty(home: Path) -> None:
    for folder in ("artifacts", "work", "prefect/storage"):
        shutil.rmtree(home / folder, ignore_errors=True)


def hashes(home: Path) -> dict[str, str]:
    """By path, the hash of every finished artefact of a home."""
    return {
        path.parent.relative_to(home / "artifacts").as_posix(): json.loads(path.read_text())[
            "reference"
        ]["sha256"]
        for path in manifests(home)
    }


def manifests(home: Path) -> list[Path]:
    return [
        path
        for path in sorted((home / "artifacts").glob("*/*/manifest.json"))
        if not path.parent.name.startswith(".")
    ]


def finished_at(home: Path) -> dict[str, int]:
    """By path, when each artefact of a home was finished, in ns: one that is made again has
    another manifest."""
    return {
        path.parent.relative_to(home / "artifacts").as_posix(): path.stat().st_mtime_ns
        for path in manifests(home)
    }


def left_half_made(home: Path) -> list[Path]:
    """Folders in which an artefact was being made."""
    return sorted((home / "artifacts").glob("*/.*"))


@contextmanager
def started(home: Path, settings: Sequence[str], **variables: str) -> Iterator[Iterator[str]]:
    """`sage run --preset tiny`: the lines that it says, and its exit code as the last one."""
    overrides = [part for each in settings for part in ("--set", each)]
    process = subprocess.Popen(
        [*SAGE, "run", "--preset", "tiny", *overrides],
        cwd=ROOT,
        env={**environment(home), **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        yield (line for stream in (process.stderr, end_of(process)) for line in stream)
    finally:
        process.kill()
        process.wait()


def end_of(process: subprocess.Popen[str]) -> Iterator[str]:
    yield str(process.wait())


def wait_until_made(lines: Iterator[str], stage: str) -> None:
    """Read until the run says that it has made a stage."""
    seen = []
    for line in lines:
        seen.append(line)
        if " made " in line and stage in line:
            return
    raise AssertionError(f"{stage} was not made:\n{''.join(seen)[-4000:]}")
