"""Runs of a deployment whose process or worker is gone, and runs that are cancelled."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from deployed import Served, call, ended, finished, processes_of, sage, wait_for
from small_run import SEED, Unkilled, empty, finished_at, hashes, left_half_made

TINY = "sage-pipeline/tiny"
SILENT_S = 75  # in place of the automation's 300: two heartbeats
FOR_GOOD = ("COMPLETED", "FAILED", "CANCELLED")  # a run that crashed is started again
Record = Callable[[str, object], None]


@pytest.mark.parametrize(
    "times",
    [
        pytest.param(3, marks=[pytest.mark.integration, pytest.mark.alone]),
        pytest.param(10, marks=pytest.mark.faults),
    ],
)
def test_killed_at_random_moments(
    times: int,
    served: Served,
    unkilled: Unkilled,
    filled_in: dict[str, Any],
    fresh: Path,
    record_property: Record,
) -> None:
    """`kill -9` of the flow run's process. The worker says that it crashed, the automation puts it
    back in the queue, and it goes on. A run that was through before all kills were done is checked,
    and the next one starts from nothing; one that was started too often is started by hand."""
    draws = random.Random(SEED)
    run = served.start(TINY, filled_in)
    began, kills, runs, by_hand = time.monotonic(), 0, 1, 0
    done: dict[str, int] = {}  # finished at a kill
    kept: list[int] = []
    while True:
        if kills < times and is_at_work(served, run):
            # Half of the time that a whole run takes: one that goes on has less left to do.
            time.sleep(draws.uniform(0, unkilled.seconds / 2))
            if kill_flow(run):
                kills += 1
                now = finished_at(fresh)
                assert {path: now.get(path) for path in done} == done
                done = now
                kept.append(len(done))
            continue
        state = ended(served.api, run, FOR_GOOD)["state"]
        if state["type"] == "FAILED":
            assert "was started 10 times" in state["message"], state["message"]
            by_hand += 1
        else:
            assert state["type"] == "COMPLETED"
            after = finished_at(fresh)
            assert {path: after.get(path) for path in done} == done
            assert hashes(fresh) == unkilled.hashes
            if kills == times:
                break
            empty(fresh)
            done, runs = {}, runs + 1
        run = served.start(TINY, filled_in)
    left = len(left_half_made(fresh))
    sage(fresh, "gc", "--yes")
    assert left_half_made(fresh) == []
    record_property(
        "fault",
        [
            "kill -9 of a deployed run",
            times,
            f"seed {SEED}: went on by itself, {runs} runs from nothing ({by_hand} starts by hand); "
            f"artefacts finished at each kill: {', '.join(map(str, kept))}, none of them made "
            f"again; all {len(unkilled.hashes)} byte for byte those of the unkilled run; "
            f"{left} folders half made, removed by sage gc; "
            f"{time.monotonic() - began:.0f} s against {unkilled.seconds:.0f} s unkilled",
        ],
    )


def is_at_work(served: Served, run: str) -> bool:
    """Wait until a flow run has a process, or ends for good."""

    def look() -> list[bool]:
        if served.run(run)["state_type"] in FOR_GOOD:
            return [False]
        return [True] if processes_of(run) else []

    return wait_for(look, 600)[0]


def kill_flow(run: str) -> bool:
    """`kill -9` of the process in which the flow runs, or of Prefect's that is about to start it;
    False if there is none any more."""
    family = processes_of(run)
    flows = [each for each in family if "prefect.engine" in each.cmdline()]
    if not family:
        return False
    (flows or family)[0].kill()
    psutil.wait_procs(family, 60)
    return True


@pytest.mark.faults
def test_a_run_whose_worker_is_killed_too(
    served: Served,
    unkilled: Unkilled,
    filled_in: dict[str, Any],
    fresh: Path,
    record_property: Record,
) -> None:
    """Nobody is left who could say that it crashed: its heartbeats stop."""
    shorten_silence(served)
    run = served.start(TINY, filled_in)
    wait_for(lambda: len(finished_at(fresh)) > 5, 600)
    worker = psutil.Process(served.servers()[2]["pid"])
    gone = [worker, *processes_of(run)]
    for process in gone:
        process.kill()
    killed_at = time.monotonic()
    done = finished_at(fresh)
    wait_for(lambda: served.run(run)["state_name"] == "AwaitingRetry" or processes_of(run), 300)
    detected = time.monotonic() - killed_at
    finished(served.api, run, fresh)
    states = call(f"{served.api}/flow_run_states/?flow_run_id={run}")
    said = [state["message"] or "" for state in states if state["type"] == "CRASHED"]
    assert any(text.startswith("No heartbeat") for text in said), states
    after = finished_at(fresh)
    assert {path: after.get(path) for path in done} == done
    assert hashes(fresh) == unkilled.hashes
    record_property(
        "fault",
        [
            "kill -9 of a run and its worker (zombie)",
            1,
            f"found and back in the queue after {detected:.0f} s (limit set to {SILENT_S} s), then "
            f"finished by itself; {len(done)} finished artefacts kept, all byte for byte",
        ],
    )


def shorten_silence(served: Served) -> None:
    """Let the automation of `sage deploy` wait less, and be as it is otherwise."""
    (found,) = [
        each
        for each in call(f"{served.api}/automations/filter", {})
        if each["name"] == "sage: crash runs that stopped answering"
    ]
    kept = ("name", "description", "enabled", "trigger", "actions", "actions_on_trigger",
            "actions_on_resolve", "tags")  # fmt: skip
    changed = {key: found[key] for key in kept if key in found}
    changed["trigger"] = {**found["trigger"], "within": SILENT_S}
    call(f"{served.api}/automations/{found['id']}", changed, method="PUT")


@pytest.mark.faults
def test_a_run_that_is_cancelled(
    served: Served,
    unkilled: Unkilled,
    filled_in: dict[str, Any],
    fresh: Path,
    record_property: Record,
) -> None:
    """From the UI, while `accelerate launch` trains in processes of its own."""
    advanced = {**filled_in["advanced"], "training": {"launcher": {"processes": 2}}}
    run = served.start(TINY, {**filled_in, "advanced": advanced})
    wait_for(lambda: len(trainers(run)) >= 2, 900)
    processes = processes_of(run)
    state = {"type": "CANCELLING", "name": "Cancelling"}
    call(f"{served.api}/flow_runs/{run}/set_state", {"state": state})
    began = time.monotonic()
    wait_for(lambda: not processes_of(run), 120)
    seconds = time.monotonic() - began
    assert ended(served.api, run)["state_type"] == "CANCELLED"
    done = finished_at(fresh)
    assert served.run(run)["state_type"] == "CANCELLED"  # the automation leaves it alone
    finished(served.api, served.start(TINY, filled_in), fresh)
    after = finished_at(fresh)
    assert {path: after.get(path) for path in done} == done
    assert unkilled.hashes.items() <= hashes(fresh).items()
    record_property(
        "fault",
        [
            "cancelled from the UI while training",
            1,
            f"all {len(processes)} processes gone after {seconds:.1f} s; the next run kept "
            f"{len(done)} finished artefacts, all byte for byte",
        ],
    )


def trainers(run: str) -> list[psutil.Process]:
    """The processes that train, of a flow run with a launcher."""
    found = []
    for process in processes_of(run):
        try:
            if any("training" in part and "worker" in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found
