"""The whole flow on Prefect, with the wiring's scripted models: what a repeated run makes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import test_wiring as wiring
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from flows import pipeline as module
from tasks import caching, making
from tasks.caching import Cached, forget_remade

RUNTIME = {
    "model": {"batch_size": 32, "prefill_tokens": 512, "resident_adapters": 1},
    "training": {"save_steps": 7},
    "plan": {"dialogues": 9},
}
SERVED = {"kind": "vllm", "max_concurrency": 3, "timeout_s": 9.0, "max_retries": 9}


@pytest.fixture(scope="module", autouse=True)
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_RESULTS_LOCAL_STORAGE_PATH", str(tmp_path_factory.mktemp("results")))
        patch.setenv("PREFECT_LOGGING_LEVEL", "CRITICAL")
        with prefect_test_harness(server_startup_timeout=90):
            yield


def run(home: Path, **changes: Any) -> dict[str, bool]:
    """Step and label -> whether the cache had it, of all steps of one run."""
    hits: dict[str, bool] = {}

    def note(name: str, cached: Cached) -> None:
        hits[name] = cached.hit

    with pytest.MonkeyPatch.context() as patch:
        original, make = module.run_method, caching.make

        def in_flow(*arguments: Any) -> None:
            @flow
            def run() -> None:
                forget_remade()
                original(*arguments)

            run()

        patch.setattr(module, "run_method", in_flow)
        patch.setattr(making, "make", make)
        with caching.listening(note):
            wiring.run(patch, home, **changes)
    return hits


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def made(prefect: None, home: Path) -> list[str]:
    """The steps of a first run over the home."""
    hits = run(home)
    assert len(hits) > 50
    assert not any(hits.values())
    return list(hits)


def test_a_repeated_run_makes_nothing_whatever_the_runtime_settings(
    home: Path, made: list[str]
) -> None:
    selfplay = {"max_turns": 4, "shard_size": 2}
    engines = {"agent_engine": SERVED, "user_engine": SERVED}
    other = {
        **RUNTIME,
        "search": {
            "candidates": 3,
            "selfplay": {**selfplay, **engines},
            "selector": {"relevance": True, "engine": SERVED},
        },
    }
    assert run(home, **other) == dict.fromkeys(made, True)


def test_a_damaged_artefact_is_made_again_with_what_it_feeds(home: Path, made: list[str]) -> None:
    (damaged,) = (home / "artifacts" / "preferences").glob("*/preferences.parquet")
    damaged.write_bytes(b"x")
    again = {name for name, hit in run(home).items() if not hit}
    assert {"preferences", "dpo", "rollout-shard dpo 1/2", "report"} <= again
    assert not {name for name in again if name.split()[0] in ("sft", "search-shard", "searched")}


def test_a_changed_setting_makes_what_depends_on_it(home: Path, made: list[str]) -> None:
    found = {name for name, hit in run(home, dpo={"beta": 0.2}).items() if not hit}
    assert {"dpo", "rollout-shard dpo 1/2", "figures", "report"} <= found
    kept = {name for name in made if name.split()[0] in ("sft", "search-shard", "preferences")}
    assert kept
    assert not kept & found
