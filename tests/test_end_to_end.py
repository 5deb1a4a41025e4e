"""One real run of the tiny preset: killed, resumed, repeated, damaged, tracked, deployed.

The tests of this file share one SAGE home and build on one another, in the order written.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

MODELS = ["m0", "raw", "m1", "m2", "m3", "dpo"]
PAIRS = [
    ("m0", "m1"), ("raw", "m1"), ("m1", "m2"), ("m2", "m3"), ("m3", "dpo"), ("m0", "dpo"),
]  # fmt: skip
SAGE = [sys.executable, "-m", "flows.cli"]
ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    return {**kept, "SAGE_HOME": str(home)}


def run_tiny(home: Path) -> dict[str, Any]:
    """`sage run --preset tiny --json`; returns its result."""
    done = subprocess.run(
        [*SAGE, "run", "--preset", "tiny", "--json"],
        cwd=ROOT,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def killed(home: Path) -> list[str]:
    """Start a run, `kill -9` it in the middle of search; the stages it had finished by then."""
    process = subprocess.Popen(
        [*SAGE, "run", "--preset", "tiny"],
        cwd=ROOT,
        env=environment(home),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    finished = []
    assert process.stderr is not None
    for line in process.stderr:
        if " made " in line:
            finished.append(line.split(" made ")[1].strip())
            if finished[-1].startswith("search-shard m1 1/"):
                time.sleep(1)  # into the second shard
                process.send_signal(signal.SIGKILL)
                break
    process.wait()
    assert process.returncode == -signal.SIGKILL
    return finished


@pytest.fixture(scope="module")
def result(home: Path, killed: list[str]) -> dict[str, Any]:
    """The run that was started again after the kill."""
    return run_tiny(home)


def test_what_was_finished_before_the_kill_is_not_done_again(
    killed: list[str], result: dict[str, Any]
) -> None:
    assert len(killed) > 10
    assert set(killed) <= set(result["cached"])
    assert "search-shard m1 2/2" in result["made"]


def test_the_killed_run_leaves_no_server_behind(home: Path, result: dict[str, Any]) -> None:
    import psutil

    left = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PREFECT_HOME") == str(home / "prefect"):
                left.append(process.cmdline())
        except psutil.Error:
            continue
    assert left == []


def test_every_model_is_made_rolled_out_and_judged(result: dict[str, Any]) -> None:
    assert [model["model"] for model in result["models"]] == MODELS
    pairs = result["win_rates"]["pairs"]
    assert [(pair["model_a"], pair["model_b"]) for pair in pairs] == PAIRS
    for pair in pairs:
        assert pair["n"] + pair["unparsed"] == 2  # the held-out situations of the preset
        assert pair["wins_a"] + pair["ties"] + pair["wins_b"] == pair["n"]


def test_tables_have_the_published_columns(home: Path, result: dict[str, Any]) -> None:
    import pyarrow.parquet as pq

    artifacts = result["artifacts"]
    expected = {
        (artifacts["corpus"]["path"], "dialogues.parquet"): {
            "dialogue_id", "source", "thread_id", "messages",
        },
        (artifacts["corpus"]["path"], "rejected.parquet"): {"dialogue_id", "reason"},
        (artifacts["sac"]["path"], "sac.parquet"): {"dialogue_id", "turns"},
        (artifacts["trajectories"][0]["path"], "trajectories.parquet"): {
            "trajectory_id", "situation_id", "situation", "emotion", "turns",
        },
        (artifacts["preferences"]["path"], "preferences.parquet"): {
            "prompt", "chosen", "rejected",
        },
        (artifacts["judgements"]["path"], "judgements.parquet"): {
            "item_id", "judge", "model_a", "model_b", "order", "verdict", "raw",
        },
    }  # fmt: skip
    for (folder, name), columns in expected.items():
        table = pq.read_table(home / "artifacts" / folder / name)
        assert columns <= set(table.column_names)
        assert table.num_rows > 0


def test_agent_turns_are_well_formed_chains_with_one_chosen_candidate(
    home: Path, result: dict[str, Any]
) -> None:
    from sage_core.sac import is_well_formed
    from sage_core.schema import Trajectory
    from sage_core.storage import read_rows

    for ref in result["artifacts"]["trajectories"]:
        rows = read_rows(home / "artifacts" / ref["path"] / "trajectories.parquet", Trajectory)
        for turn in (turn for row in rows for turn in row.turns if turn.role == "assistant"):
            assert is_well_formed(turn.content)
            assert [c.text for c in turn.candidates if c.chosen] == [turn.content]


def test_report_is_self_contained(home: Path, result: dict[str, Any]) -> None:
    page = home / "artifacts" / result["artifacts"]["report"]["path"] / "report.html"
    text = page.read_text(encoding="utf-8")
    assert all(model in text for model in MODELS)
    assert "Does the state follow?" in text
    assert 'src="http' not in text
    assert "<link" not in text


def test_mlflow_has_a_parent_and_one_child_per_model(home: Path, result: dict[str, Any]) -> None:
    code = f"""
import json, mlflow
mlflow.set_tracking_uri("sqlite:///{home}/mlflow.db")
c = mlflow.MlflowClient()
e = c.get_experiment_by_name("sage-tiny").experiment_id
runs = c.search_runs([e], max_results=100)
parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
children = {{r.info.run_name: r for r in runs if "mlflow.parentRunId" in r.data.tags}}
print(json.dumps({{
    "parents": [r.info.status for r in parents],
    "children": sorted(children),
    "tags": {{n: r.data.tags for n, r in children.items()}},
    "metrics": {{n: r.data.metrics for n, r in children.items()}},
    "steps": sorted(m.step for m in c.get_metric_history(parents[0].info.run_id, "reply_words")),
    "inputs": {{n: len(r.inputs.dataset_inputs) for n, r in children.items()}},
    "aliases": sorted(c.get_registered_model("sage-tiny").aliases),
    "location": c.get_experiment(e).artifact_location,
    "files": sorted(f.path for f in c.list_artifacts(parents[0].info.run_id)),
    "models": sorted(m.name for m in c.search_logged_models([e])),
}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(home)
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    assert seen["location"] == (home / "mlflow-artifacts" / "sage-tiny").as_uri()
    assert seen["parents"] == ["FINISHED"]  # the killed run's parent was taken up again
    assert seen["children"] == sorted(MODELS)
    assert seen["aliases"] == sorted(MODELS)
    assert seen["models"] == sorted(MODELS)
    steps = {"m0": 0, "m1": 1, "m2": 2, "m3": 3, "dpo": 4}
    spoke = [model["model"] for model in result["models"] if model["reply_words"]["n"]]
    assert seen["steps"] == [steps[name] for name in spoke if name in steps]
    assert len(spoke) > 3  # so small a model may be cut off inside its states every time
    assert {"report.html", "win_rates.json", "dialogues.json"} <= set(seen["files"])
    assert seen["metrics"]["m1"]["steering.emotion.boost_8"] >= 0
    for name in MODELS[1:]:
        assert seen["inputs"][name] == 1
        assert "train.loss" in seen["metrics"][name]
        assert seen["tags"][name]["sage.config_hash"]
    assert seen["tags"]["m2"]["sage.parent_model"] == "m1"


def test_second_run_hits_everything(home: Path, result: dict[str, Any]) -> None:
    again = run_tiny(home)
    assert again["made"] == []
    assert again["artifacts"] == result["artifacts"]


def test_damaged_and_deleted_artefacts_are_made_again_with_what_they_feed(
    home: Path, result: dict[str, Any]
) -> None:
    import shutil

    artifacts = home / "artifacts"
    shutil.rmtree(artifacts / result["artifacts"]["checkpoints"]["dpo"]["path"])
    verdicts = artifacts / result["artifacts"]["judgements"]["path"] / "judgements.parquet"
    verdicts.write_bytes(verdicts.read_bytes()[:-1] + b"x")
    again = run_tiny(home)
    assert set(again["made"]) == {
        "dpo", "rollout-shard dpo 1/1", "trajectories rollout dpo", "judge-pair m0 m3-dpo",
        "judge-pair m0 m0-dpo", "judgements", "figures", "report",
    }  # fmt: skip
    assert again["artifacts"] == result["artifacts"]  # the same bytes again


@pytest.fixture(scope="module")
def servers(home: Path, result: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """`sage ui` over the same home: the addresses of Prefect's API and of MLflow."""
    ports = [free_port(), free_port()]
    arguments = ["ui", "--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1])]
    process = subprocess.Popen(
        [*SAGE, *arguments], cwd=ROOT, env=environment(home), stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not (home / "ui.json").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline, "sage ui did not start in 120 s"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{ports[0]}/api", f"http://127.0.0.1:{ports[1]}"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_a_deployed_run_started_through_the_api_goes_through(
    home: Path, servers: tuple[str, str], result: dict[str, Any]
) -> None:
    api, mlflow = servers
    with urlopen(f"{mlflow}/health") as answer:
        assert answer.status == 200
    subprocess.run([*SAGE, "deploy"], cwd=ROOT, env=environment(home), check=True)
    deployment = call(f"{api}/deployments/name/sage-pipeline/tiny")
    form = deployment["parameter_openapi_schema"]["definitions"]["CorpusConfig"]["properties"]
    assert "min_sentiment" in form
    weekly = call(f"{api}/deployments/name/sage-one-more-round/weekly-refinement")
    assert [schedule["schedule"]["cron"] for schedule in weekly["schedules"]] == ["0 3 * * 1"]

    run_through(api, deployment, deployment["parameters"], home)


def test_one_more_round_goes_on_from_the_last_finished_run(
    home: Path, servers: tuple[str, str], result: dict[str, Any]
) -> None:
    api, _ = servers
    tiny = call(f"{api}/deployments/name/sage-pipeline/tiny")
    weekly = call(f"{api}/deployments/name/sage-one-more-round/weekly-refinement")
    before = made(home)
    run_through(api, weekly, tiny["parameters"], home)
    assert {name: made(home)[name] - before[name] for name in ("sft", "dpo")} == {
        "sft": 1,  # m4; all models before it come from the cache
        "dpo": 1,
    }


def made(home: Path) -> Counter[str]:
    """How many artefacts of each stage lie in the store."""
    return Counter(path.parents[1].name for path in (home / "artifacts").glob("*/*/manifest.json"))


def run_through(
    api: str, deployment: dict[str, Any], parameters: dict[str, Any], home: Path
) -> None:
    """Start a deployment as the form of the UI does, and wait for its end."""
    run = call(
        f"{api}/deployments/{deployment['id']}/create_flow_run",
        {"parameters": parameters, "state": {"type": "SCHEDULED"}},
    )
    deadline = time.monotonic() + 400
    state = ""
    while state not in ("COMPLETED", "FAILED", "CRASHED"):
        assert time.monotonic() < deadline, f"the run is still {state} after 400 s"
        time.sleep(2)
        state = call(f"{api}/flow_runs/{run['id']}")["state_type"]
    assert state == "COMPLETED", (home / "logs" / "worker.log").read_text()[-4000:]


def call(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    deadline = time.monotonic() + 60
    while True:
        try:
            with urlopen(Request(url, data, {"Content-Type": "application/json"})) as answer:
                return json.loads(answer.read())
        except HTTPError as error:  # Prefect says 503 while SQLite is busy, and means "again"
            if error.code != 503 or time.monotonic() > deadline:
                raise
            time.sleep(1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
