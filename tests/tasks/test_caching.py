"""The cache of stages: hits, damage, code, and what is made again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from sage_core.errors import ArtifactError
from sage_core.storage import ArtifactRef
from tasks import caching
from tasks.caching import Cached, forget_remade, listen, stage
from tasks.home import store


@stage("schema")
def source(folder: Path, text: str) -> None:
    (folder / "text").write_text(text)


@stage("schema")
def upper(folder: Path, parent: ArtifactRef) -> None:
    (folder / "text").write_text((store().folder(parent) / "text").read_text().upper())


@stage("schema")
def join(folder: Path, parts: list[ArtifactRef]) -> None:
    (folder / "text").write_text(
        " ".join((store().folder(part) / "text").read_text() for part in parts)
    )


@stage("schema")
def failing(folder: Path, text: str) -> None:
    (folder / "half").write_text(text)
    raise OSError(28, "No space left on device")


@pytest.fixture(scope="module", autouse=True)
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_RESULTS_LOCAL_STORAGE_PATH", str(tmp_path_factory.mktemp("results")))
        with prefect_test_harness(server_startup_timeout=90):
            yield


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """An empty home for each test; (stage, hit) of every stage that ends."""
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "CRITICAL")
    ends: list[tuple[str, bool]] = []

    def note(name: str, cached: Cached) -> None:
        ends.append((name, cached.hit))

    monkeypatch.setattr(caching, "_listeners", [])
    listen(note)
    return ends


def run(text: str) -> ArtifactRef:
    """A diamond: source feeds upper, both feed join; 'alone' feeds nothing."""

    @flow
    def diamond() -> ArtifactRef:
        forget_remade()
        first = source("first", text=text)
        source("alone", text=f"alone {text}")
        return join(parts=[first, upper(parent=first)])

    return diamond()


def made(ends: list[tuple[str, bool]]) -> set[str]:
    names = {name for name, hit in ends if not hit}
    ends.clear()
    return names


ALL = {"source first", "source alone", "upper", "join"}


def test_the_second_run_hits_everything(seen: list[tuple[str, bool]]) -> None:
    first = run("hits")
    assert made(seen) == ALL
    assert run("hits") == first
    assert made(seen) == set()


def test_a_changed_input_makes_everything_that_depends_on_it(seen: list[tuple[str, bool]]) -> None:
    run("one input")
    made(seen)
    run("another input")
    assert made(seen) == ALL


@pytest.mark.parametrize("damage", ["delete", "change", "unfinished"])
def test_a_damaged_artefact_is_made_again_with_what_it_feeds(
    seen: list[tuple[str, bool]], damage: str
) -> None:
    text = f"damage {damage}"
    first = run(text)
    made(seen)
    folder = next(path.parent for path in store().root.glob("upper/*/text"))
    if damage == "delete":
        (folder / "text").unlink()
    elif damage == "change":
        (folder / "text").write_text("x")
    else:
        (folder / "manifest.json").unlink()
    assert run(text) == first
    assert made(seen) == {"upper", "join"}


def test_changed_code_makes_the_stage_again(
    seen: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("code")
    made(seen)
    monkeypatch.setattr(caching, "_source", lambda module: f"changed {module}")
    run("code")
    assert made(seen) == ALL


def test_no_space_left_leaves_nothing_half_written(
    tmp_path: Path, seen: list[tuple[str, bool]]
) -> None:
    @flow
    def full() -> None:
        failing(text="x")

    with pytest.raises(ArtifactError, match="SAGE_HOME"):
        full()
    assert list(store().root.rglob("half")) == []
    assert seen == []


def test_side_by_side_gives_the_results_in_order(seen: list[tuple[str, bool]]) -> None:
    @flow
    def mapped() -> list[ArtifactRef]:
        return source.map([{"text": f"part {number}"} for number in range(4)])

    texts = [(store().folder(ref) / "text").read_text() for ref in mapped()]
    assert texts == ["part 0", "part 1", "part 2", "part 3"]
    assert {name for name, _ in seen} == {f"source {number}/4" for number in (1, 2, 3, 4)}


@stage("schema", resumable=True)
def in_steps(folder: Path, text: str, work: Path) -> None:
    """Dies after each step until all three are there."""
    work.mkdir(parents=True, exist_ok=True)
    steps = len(list(work.iterdir()))
    if steps < 3:
        (work / str(steps)).write_text(text)
        raise KeyboardInterrupt
    (folder / "text").write_text(f"{text} in {steps}")


def test_a_resumable_stage_finds_its_work_again(seen: list[tuple[str, bool]]) -> None:
    work = store().root.parent / "work" / "in-steps"
    for text in ("a", "b"):  # what is saved belongs to these inputs only
        for steps in range(3):
            with pytest.raises(KeyboardInterrupt):
                in_steps.local(text=text)
            (folder,) = work.iterdir()
            assert len(list(folder.iterdir())) == steps + 1
        ref = in_steps.local(text=text)
        assert (store().folder(ref) / "text").read_text() == f"{text} in 3"
        assert list(work.iterdir()) == []
