"""One run of the tiny preset: killed, resumed, tracked, damaged and repeated.

Every stage is real; the base model is a small random one, whose replies have room to end.
`tests/integration/test_single.py` has every stage with the embedded model.

The tests of this file share one SAGE home and build on one another, in the order written.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_run import ROOT, SAGE, environment, overrides, run_tiny, small_base

MODELS = ["m0", "raw", "m1", "m2", "m3", "dpo"]
PAIRS = [
    ("m0", "m1"), ("raw", "m1"), ("m1", "m2"), ("m2", "m3"), ("m3", "dpo"), ("m0", "dpo"),
]  # fmt: skip
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def settings(home: Path) -> list[str]:
    return [
        f"model.base={small_base(home / 'base')}",
        "model.max_context=2048",
        "search.selfplay.sampling.max_state_tokens=400",
        "evaluation.selfplay.sampling.max_state_tokens=400",
    ]


@pytest.fixture(scope="module")
def killed(home: Path, settings: list[str]) -> list[str]:
    """Start a run, `kill -9` it in the middle of search; the stages it had finished by then."""
    process = subprocess.Popen(
        [*SAGE, "run", "--preset", "tiny", *overrides(settings)],
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
            finished.append(line.split(" made ")[1].strip().split("  ")[0])
            if finished[-1].startswith("search-shard m1 1/"):
                process.send_signal(signal.SIGKILL)  # the second one has begun at most
                break
    process.wait()
    assert process.returncode == -signal.SIGKILL
    return finished


@pytest.fixture(scope="module")
def result(home: Path, settings: list[str], killed: list[str]) -> dict[str, Any]:
    """The run that was started again after the kill."""
    return run_tiny(home, *settings)


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
    "titles": [r.info.run_name for r in parents],
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
    assert 0 <= seen["metrics"]["m1"]["annotation_sentiment_agreement"] <= 1
    assert 0 <= seen["metrics"]["m1"]["well_formed_without_grammar"] <= 1
    for name in spoke:
        assert {"cut_share", "stray_braces", "loglik_m0"} <= set(seen["metrics"][name])
    for name in set(spoke) - {"m0", "raw", "m1"}:
        assert "stray_braces.vs_m1.ci_low" in seen["metrics"][name]
    for name in MODELS[1:]:
        assert seen["inputs"][name] == 1
        assert "train.loss" in seen["metrics"][name]
        assert seen["tags"][name]["sage.config_hash"]
        assert seen["tags"][name]["mlflow.source.name"] == seen["titles"][0]
    assert seen["tags"]["m2"]["sage.parent_model"] == "m1"


def test_a_repeated_run_makes_what_was_damaged_or_deleted_and_what_they_feed(
    home: Path, settings: list[str], result: dict[str, Any]
) -> None:
    import shutil

    artifacts = home / "artifacts"
    shutil.rmtree(artifacts / result["artifacts"]["checkpoints"]["dpo"]["path"])
    verdicts = artifacts / result["artifacts"]["judgements"]["path"] / "judgements.parquet"
    verdicts.write_bytes(verdicts.read_bytes()[:-1] + b"x")
    again = run_tiny(home, *settings)
    assert set(again["made"]) == {
        "dpo", "rollout-shard dpo 1/1", "trajectories rollout dpo", "measurements dpo", "quality",
        "judge-pair m0 m3-dpo", "judge-pair m0 m0-dpo", "judgements", "figures", "report",
    }  # fmt: skip
    assert again["artifacts"] == result["artifacts"]  # the same bytes again
