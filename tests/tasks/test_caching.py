"""The cache of stages: hits, damage, code, and what is made again."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.context import FlowRunContext
from prefect.settings import get_current_settings
from prefect.testing.utilities import prefect_test_harness

from sage_core.errors import ArtifactError
from sage_core.steps import code
from sage_core.steps.base import Context, Step
from sage_core.storage import ArtifactRef
from tasks.caching import Cached, forget_remade, listening, make, make_all
from tasks.home import store


@dataclass(frozen=True, kw_only=True)
class Source(Step):
    name = "source"
    text: str

    def run(self, folder: Path, context: Context) -> None:
        (folder / "text").write_text(self.text)


@dataclass(frozen=True, kw_only=True)
class Upper(Step):
    name = "upper"
    parent: ArtifactRef

    def run(self, folder: Path, context: Context) -> None:
        text = (context.folder(self.parent) / "text").read_text()
        (folder / "text").write_text(text.upper())


@dataclass(frozen=True, kw_only=True)
class Join(Step):
    name = "join"
    parts: tuple[ArtifactRef, ...]

    def run(self, folder: Path, context: Context) -> None:
        texts = [(context.folder(part) / "text").read_text() for part in self.parts]
        (folder / "text").write_text(" ".join(texts))


@dataclass(frozen=True, kw_only=True)
class Failing(Step):
    name = "failing"
    text: str

    def run(self, folder: Path, context: Context) -> None:
        (folder / "half").write_text(self.text)
        raise OSError(28, "No space left on device")


@pytest.fixture(scope="module", autouse=True)
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_RESULTS_LOCAL_STORAGE_PATH", str(tmp_path_factory.mktemp("results")))
        with prefect_test_harness(server_startup_timeout=90):
            yield


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bool]]]:
    """An empty home for each test; (stage, hit) of every stage that ends."""
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "CRITICAL")
    ends: list[tuple[str, bool]] = []

    def note(name: str, cached: Cached) -> None:
        ends.append((name, cached.hit))

    with listening(note):
        yield ends


def run(text: str) -> ArtifactRef:
    """A diamond: source feeds upper, both feed join; 'alone' feeds nothing."""

    @flow
    def diamond() -> ArtifactRef:
        forget_remade()
        first = make(Source(text=text), "first")
        make(Source(text=f"alone {text}"), "alone")
        return make(Join(parts=(first, make(Upper(parent=first)))))

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


def test_what_prefects_cache_was_not_told_of_is_found_in_the_store(
    seen: list[tuple[str, bool]],
) -> None:
    """As after a kill between an artefact and its entry in the cache, or with a new container."""
    first = run("untold")
    made(seen)
    entries = [*get_current_settings().results.local_storage_path.iterdir()]
    assert entries
    for entry in entries:
        entry.unlink()
    assert run("untold") == first
    assert made(seen) == set()
    (store().folder(first) / "text").write_text("changed")
    for entry in get_current_settings().results.local_storage_path.iterdir():
        entry.unlink()
    assert run("untold") == first
    assert made(seen) == {"join"}


def test_changed_code_makes_the_stage_again(
    seen: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("code")
    made(seen)
    read = code.read_source
    code._module.cache_clear()
    monkeypatch.setattr(code, "read_source", lambda path: read(path) + "\nchanged = True\n")
    run("code")
    assert made(seen) == ALL
    code._module.cache_clear()


def test_no_space_left_leaves_nothing_half_written(
    tmp_path: Path, seen: list[tuple[str, bool]]
) -> None:
    @flow
    def full() -> None:
        make(Failing(text="x"))

    with pytest.raises(ArtifactError, match="SAGE_HOME"):
        full()
    assert list(store().root.rglob("half")) == []
    assert seen == []


def test_side_by_side_gives_the_results_in_order(seen: list[tuple[str, bool]]) -> None:
    @flow
    def mapped() -> list[ArtifactRef]:
        return make_all([Source(text=f"part {number}") for number in range(4)])

    texts = [(store().folder(ref) / "text").read_text() for ref in mapped()]
    assert texts == ["part 0", "part 1", "part 2", "part 3"]
    assert {name for name, _ in seen} == {f"source {number}/4" for number in (1, 2, 3, 4)}


@dataclass(frozen=True, kw_only=True)
class InSteps(Step):
    """Dies after each step until all three are there."""

    name = "in-steps"
    text: str

    def run(self, folder: Path, context: Context) -> None:
        context.work.mkdir(parents=True, exist_ok=True)
        steps = len(list(context.work.iterdir()))
        if steps < 3:
            (context.work / str(steps)).write_text(self.text)
            raise KeyboardInterrupt
        (folder / "text").write_text(f"{self.text} in {steps}")


def test_a_resumable_step_finds_its_work_again(seen: list[tuple[str, bool]]) -> None:
    work = store().root.parent / "work" / "in-steps"
    for text in ("a", "b"):  # what is saved belongs to these inputs only
        for steps in range(3):
            with pytest.raises(KeyboardInterrupt):
                make(InSteps(text=text))
            (folder,) = work.iterdir()
            assert len(list(folder.iterdir())) == steps + 1
        ref = make(InSteps(text=text))
        assert (store().folder(ref) / "text").read_text() == f"{text} in 3"
        assert list(work.iterdir()) == []


def test_the_run_graph_has_an_edge_for_every_input(seen: list[tuple[str, bool]]) -> None:
    """From the cache as well as made; the run's log says what became of each stage."""

    @flow
    def joined() -> object:
        forget_remade()
        parts = make_all([Source(text="edge one"), Source(text="edge two")], ["one", "two"])
        make(Join(parts=(make(Upper(parent=parts[0])), parts[1])))
        return FlowRunContext.get().flow_run.id  # type: ignore[union-attr]

    stages = ["source one", "source two", "upper", "join"]
    for outcome in ("made", "cached"):
        run_id = joined()
        deadline = time.monotonic() + 30
        nodes: dict[str, Any] = {}
        logs: list[str] = []
        with get_client(sync_client=True) as client:  # the server takes both in the background
            while (len(nodes) < 4 or len(logs) < 4) and time.monotonic() < deadline:
                time.sleep(0.2)
                found = client.request("GET", f"/flow_runs/{run_id}/graph-v2")
                nodes = dict(found.json()["nodes"])
                logs = lines(client, run_id)
        edges = {
            (nodes[parent["id"]]["label"], node["label"])
            for node in nodes.values()
            for parent in node["parents"]
        }
        assert edges == {("source one", "upper"), ("source two", "join"), ("upper", "join")}
        assert [line.split(" in ")[0].split(maxsplit=1) for line in logs] == [
            [outcome, stage] for stage in stages
        ]


def lines(client: SyncPrefectClient, run_id: UUID) -> list[str]:
    """The stages in the log of a flow run."""
    within = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
    messages = [log.message for log in client.read_logs(within)]
    return [text for text in messages if text.startswith(("made", "cached"))]


def test_what_the_store_has_is_not_made_again_without_cached_results(
    seen: list[tuple[str, bool]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run("moved")
    made(seen)
    monkeypatch.setenv("PREFECT_RESULTS_LOCAL_STORAGE_PATH", str(tmp_path / "no results"))
    assert run("moved") == first
    assert made(seen) == set()


def test_an_empty_home_goes_on_from_the_mirror(
    seen: list[tuple[str, bool]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_MIRROR", (tmp_path / "mirror").as_uri())
    first = run("mirrored")
    assert made(seen) == ALL
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "another home"))
    assert run("mirrored") == first
    assert made(seen) == set()
    assert (store().folder(first) / "text").read_text() == "mirrored MIRRORED"
