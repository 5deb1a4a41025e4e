"""New dialogues reach the champion by themselves, but for a person's word: prepare-data registers
a corpus, its event starts a round of retraining, and the round waits for an answer. All through the
server's API, as the UI does it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from answering_server import Answering, Said, answering
from deployed import ENDS, Served, call, ended, finished, sage, serve, wait_for
from tiny_run import ROOM, small_base

from sage_core.conversation import quoted
from sage_core.sac import utterance_of
from sage_core.schema import Trajectory
from sage_core.storage import read_rows

pytestmark = pytest.mark.services

PREPARE, RETRAIN = "sage-prepare-data/prepare-data", "sage-retrain/retrain"
OFF = {
    "min_action_entropy": 0, "min_distinct_2": 0, "min_reply_words": 0, "max_malformed": 1,
    "kl_replies": 0, "max_question_rate": 1, "max_stray_braces": 1, "max_cut_share": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def arrive(home: Path, week: int) -> None:
    """Four dialogues of a week's file in the data folder."""
    rows = [
        {"messages": [
            {"role": "user", "content": f"It rained on day {day} of week {week}, all of it."},
            {"role": "assistant", "content": f"How wet was it then, on day number {day}?"},
            {"role": "user", "content": f"So wet that boat {week} came by, with {day} ducks."},
            {"role": "assistant", "content": f"I hope that all {day} of the ducks were happy."},
        ]}
        for day in range(4)
    ]  # fmt: skip
    talks = home / "data" / "talks"
    talks.mkdir(parents=True, exist_ok=True)
    (talks / f"week-{week}.jsonl").write_text("\n".join(map(json.dumps, rows)))


@pytest.fixture(scope="module")
def judge(home: Path) -> Iterator[Answering]:
    """A judge on a server that prefers the challenger, whose words it finds in the home."""

    def answer(body: dict[str, Any]) -> Said:
        shown = body["messages"][-1]["content"].split("Conversation B:")
        own = said(home, "rollout challenger") - said(home, "rollout champion")
        a, b = (sum(quoted(text) in part for text in own) for part in shown)
        return Said(f"Verdict: {'tie' if a == b else 'A' if a > b else 'B'}")

    with answering(answer) as server:
        yield server


def said(home: Path, label: str) -> set[str]:
    """What the assistant says in the rollouts of a model."""
    found = set()
    for manifest in (home / "artifacts" / "trajectories").glob("*/manifest.json"):
        if json.loads(manifest.read_text())["label"] == label:
            for row in read_rows(manifest.with_name("trajectories.parquet"), Trajectory):
                found |= {utterance_of(t.content) for t in row.turns if t.role == "assistant"}
    return found


@pytest.fixture(scope="module")
def filled_in(home: Path, judge: Answering) -> dict[str, Any]:
    """The form of a run on a small base model, in which the judge decides and no gate closes."""
    arrive(home, 0)
    return {
        "preset": "tiny",
        "name": "rainy",
        "data": "talks",
        "reader": "messages",
        "base_model": str(small_base(home / "base")),
        "judges": [{"name": "friend", "model": "m", "base_url": judge.settings["base_url"]}],
        "budget": {"tokens": 10_000_000},
        "advanced": {
            **ROOM,
            "corpus": {"rules": [], "min_turns": 2, "span": "whole"},
            "refine": {"rounds": 1, "gates": OFF},
            "steering_report": {"enabled": False},
            "retrain": {"situations": 8, "error_rate": 0.5, "replay": 0},
        },
    }


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[Served]:
    """`sage ui` over the home, with its deployments."""
    with serve(home, OPENAI_API_KEY="-") as served:
        for _ in range(2):  # the second time makes no second trigger
            served.deploy()
        yield served


def rounds(served: Served) -> list[dict[str, Any]]:
    """The runs of the deployment that events start, the oldest first."""
    found: list[dict[str, Any]] = call(
        f"{served.api}/flow_runs/filter",
        {"deployments": {"id": {"any_": [served.deployment(RETRAIN)["id"]]}}},
    )
    return sorted(found, key=lambda run: str(run["created"]))


def prepared(served: Served) -> str:
    """The name of a run of prepare-data."""
    run = finished(served.api, served.start(PREPARE, {}), served.home)
    return str(run["name"])


def test_what_is_too_dear_or_wrong_is_refused_before_any_work(
    served: Served, filled_in: dict[str, Any]
) -> None:
    wrong = {**filled_in, "advanced": {"search": {"candidates": 0}}}
    with pytest.raises(HTTPError) as error:
        served.start("sage-pipeline/tiny", wrong)
    assert error.value.code in (409, 422)
    dear = {**filled_in, "budget": {"tokens": 1000}}
    run = ended(served.api, served.start("sage-pipeline/tiny", dear))
    assert run["state_type"] == "FAILED"
    assert "tokens, over budget.tokens = 1,000" in run["state"]["message"]
    assert not (served.home / "artifacts").exists()


def test_registered_dialogues_start_a_round_once(served: Served, filled_in: dict[str, Any]) -> None:
    """The champion's own dialogues are the first version; the round finds nothing new in them."""
    finished(served.api, served.start("sage-pipeline/tiny", filled_in), served.home)
    sage(served.home, "promote", "dpo")
    assert [prepared(served), prepared(served)] == ["corpus 1 · new", "corpus 1 · known"]
    (first,) = wait_for(lambda: rounds(served), 60)
    assert first["parameters"]["name"] == "rainy"
    assert finished(served.api, first["id"], served.home)["name"] == "retrain · nothing new"
    assert len(rounds(served)) == 1


def test_new_dialogues_start_a_round_that_waits_for_a_person(served: Served) -> None:
    deployment = f"{served.api}/deployments/{served.deployment(RETRAIN)['id']}"
    call(deployment, {"parameters": {"approval": True}}, method="PATCH")
    arrive(served.home, 1)
    assert prepared(served) == "corpus 2 · new"
    wait_for(lambda: len(rounds(served)) == 2, 60)
    run = ended(served.api, rounds(served)[1]["id"], (*ENDS, "PAUSED"))
    assert run["state"]["name"] == "Suspended", run["state"]
    assert run["name"] == "round 1 · waiting for approval"
    wait_for(lambda: not held(served.home), 60)  # no process waits

    # What the page shows: the decision table, and two fields.
    address = f"{served.api}/flow_runs/{run['id']}"
    keys = run["state"]["state_details"]["run_input_keyset"]
    description = call(f"{address}/input/{keys['description']}")
    assert "| win rate, judge friend |" in description
    asked = call(f"{address}/input/{keys['schema']}")
    assert set(asked["required"]) == {"promote", "reason"}

    # Another round may go on meanwhile; a wrong answer is refused.
    other = finished(served.api, served.start("sage-retrain/weekly", {}), served.home)
    assert other["name"] == "retrain · nothing new"
    refused = call(f"{address}/resume", {"run_input": {"promote": True, "reason": ""}})
    assert refused["status"] == "REJECT"
    assert call(address)["state"]["name"] == "Suspended"

    answer = {"promote": True, "reason": "It asked about the ducks."}
    assert call(f"{address}/resume", {"run_input": answer})["status"] == "ACCEPT"
    done = finished(served.api, run["id"], served.home)
    assert done["name"] == "round 1 · promoted"
    outcomes = [tag for tag in done["tags"] if tag.startswith("outcome:")]
    assert outcomes == ["outcome:promoted"]
    tables = call(
        f"{served.api}/artifacts/filter",
        {"artifacts": {"flow_run_id": {"any_": [run["id"]]}, "key": {"any_": ["sage-decision"]}}},
    )
    last = max(tables, key=lambda table: str(table["created"]))
    assert "It asked about the ducks." in last["data"]
    back = json.loads(sage(served.home, "rollback", "--json").stdout)
    assert back["withdrawn"] > back["champion"]


def held(home: Path) -> bool:
    return (home / "lock.json").exists()
