"""The MLflow database of a home, made and looked at by MLflow itself."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from command_line import sage
from mlflow.exceptions import MlflowException

from sage_core.config.loading import load_config
from sage_core.errors import ArtifactError
from sage_core.schema import Trajectory, TrajectoryTurn
from sage_core.storage import ArtifactRef, write_json
from tasks import databases, tracking, tracking_store
from tasks.home import held, mlflow_database, store
from tasks.mlflow_views import CHARTED, experiment_tags
from tasks.tracked_dialogues import log_dialogues

ROOT = Path(__file__).parents[2]
MAKE = (
    "from tasks import tracking_store\nprint('go', flush=True)\ntracking_store.prepare_database()"
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def break_(path: Path) -> None:
    """What two migrations at once leave behind."""
    with sqlite3.connect(path) as database:
        database.execute("create table _alembic_tmp_metrics (key text)")


def test_what_is_made_is_whole_and_opens(made_database: Path) -> None:
    assert databases.fault(made_database) is None
    assert [path.name for path in made_database.parent.glob("mlflow.db*")] == ["mlflow.db"]
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{made_database}")
    assert client.search_registered_models() == []


def test_a_kill_during_its_making_leaves_nothing_that_counts(home: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", MAKE], cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    deadline = time.monotonic() + 60
    while not (home / "mlflow.db.unfinished").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not mlflow_database().exists()
    tracking_store.prepare_database()
    assert databases.fault(mlflow_database()) is None
    assert list(home.glob("mlflow.db.unfinished*")) == []


HALF_WRITTEN = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("pragma cache_size = 1")  # so that changed pages are in the file before the end
database.execute("begin immediate")
database.execute("create table half (written text)")
for _ in range(100):
    database.execute("insert into half values (hex(randomblob(4096)))")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_had_half_written_is_undone(home: Path, made_database: Path) -> None:
    path = home / "mlflow.db"
    shutil.copy(made_database, path)
    subprocess.run([sys.executable, "-c", HALF_WRITTEN, path], check=False)
    assert (home / "mlflow.db-journal").stat().st_size > 0
    assert path.read_bytes() != made_database.read_bytes()
    assert databases.fault(path) is None
    assert path.read_bytes() == made_database.read_bytes()


def test_a_broken_one_is_refused_with_the_fix(home: Path, made_database: Path) -> None:
    shutil.copy(made_database, home / "mlflow.db")
    break_(home / "mlflow.db")
    with pytest.raises(ArtifactError, match="_alembic_tmp_metrics") as error:
        tracking_store.prepare_database()
    assert f"mv '{home / 'mlflow.db'}'" in str(error.value)


@pytest.mark.parametrize(
    ("content", "fault"),
    [(b"", "no tables"), (b"not a database" * 100, "cannot be read")],
)
def test_other_faults(home: Path, content: bytes, fault: str) -> None:
    (home / "mlflow.db").write_bytes(content)
    assert fault in str(databases.fault(home / "mlflow.db"))


def test_a_damaged_page_is_found(home: Path, made_database: Path) -> None:
    content = bytearray(made_database.read_bytes())
    content[8192 : 8192 + 4096] = b"\xff" * 4096
    (home / "mlflow.db").write_bytes(content)
    assert databases.fault(home / "mlflow.db")


def test_doctor_opens_both_databases(home: Path, made_database: Path, tiny_base: Path) -> None:
    shutil.copy(made_database, home / "mlflow.db")
    (home / "prefect").mkdir()
    shutil.copy(made_database, home / "prefect" / "prefect.db")
    break_(home / "prefect" / "prefect.db")
    done = sage(
        "doctor", "--preset", "tiny", "--json", "--set", f"model.base={tiny_base}",
        home=home, PREFECT_HOME=str(home / "prefect"),
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    checks = {check["what"]: check for check in json.loads(done.stdout)}
    assert checks["MLflow database"]["ok"]
    assert not checks["Prefect database"]["ok"]
    assert "_alembic_tmp_metrics" in checks["Prefect database"]["found"]
    assert "prefect.db.broken" in checks["Prefect database"]["fix"]


def test_only_a_run_of_the_same_home_is_taken_up_again(
    home: Path, made_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two homes that share an MLflow server: one's live run is not the other's."""
    shutil.copy(made_database, tmp_path / "shared.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'shared.db'}")
    config = load_config("tiny")
    with held():
        first = tracking.Tracker(config).run_id
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "other"))
    with held():
        assert tracking.Tracker(config).run_id != first
    monkeypatch.setenv("SAGE_HOME", str(home))
    with held():
        assert tracking.Tracker(config).run_id == first
    assert not mlflow_database().exists()


@pytest.fixture
def tracker(home: Path, made_database: Path) -> Iterator[tracking.Tracker]:
    shutil.copy(made_database, home / "mlflow.db")
    with held():
        yield tracking.Tracker(load_config("demo", ["seed=3"]))


def test_a_run_is_named_by_what_differs_and_its_views_are_kept(
    tracker: tracking.Tracker,
) -> None:
    client = mlflow.MlflowClient()
    run = client.get_run(tracker.run_id)
    assert run.info.run_name == "demo: seed=3"
    tags = client.get_experiment(run.info.experiment_id).tags
    views = {key: json.loads(value) for key, value in tags.items() if "sharedViewState" in key}
    assert len(views) == 2
    for key, view in views.items():
        assert f"viewStateShareKey={key.rpartition('.')[2]}" in tags["mlflow.note.content"]
        client.search_runs([run.info.experiment_id], view["searchFilter"])  # MLflow reads it
    charts = next(view for view in views.values() if "compareRunCharts" in view)
    assert [each["metricKey"] for each in charts["compareRunCharts"]] == list(CHARTED)
    found = client.search_runs([run.info.experiment_id], charts["searchFilter"])
    assert [each.info.run_id for each in found] == [tracker.run_id]
    (table,) = (view for view in views.values() if "selectedColumns" in view)
    assert table["selectedColumns"][0] == "attributes.`Source`"


def test_a_description_that_somebody_wrote_stays() -> None:
    ours = experiment_tags("1", ["x"], {})
    assert experiment_tags("1", ["x"], ours) == ours
    tags = experiment_tags("1", ["x"], {"mlflow.note.content": "Ask Ann first."})
    assert "mlflow.note.content" not in tags
    assert len(tags) == 2


def dialogue(number: int, reply: str) -> Trajectory:
    said = (
        "{u_motivation: venting, u_emotion: sad, u_topic: [cat]} "
        f"{{a_motivation: sympathy, a_emotion: caring, a_topic: []}} {reply}"
    )
    turns = (TrajectoryTurn("user", "My cat!", ()), TrajectoryTurn("assistant", said, ()))
    return Trajectory(f"t{number}", f"s{number}", "My cat!", "sad", turns)


def test_dialogues_are_traces_and_rows_once_and_can_be_annotated(
    tracker: tracking.Tracker,
) -> None:
    client = mlflow.MlflowClient()
    experiment = client.get_run(tracker.run_id).info.experiment_id
    runs = {
        model: client.create_run(experiment, run_name=model).info.run_id for model in ("m0", "m1")
    }
    dialogues = {
        model: [dialogue(number, f"{model}, {number}") for number in (1, 2)] for model in runs
    }
    for _ in range(2):  # as after a run that was killed
        log_dialogues(experiment, tracker.run_id, runs, dialogues, "dialogues")
    traces = client.search_traces(
        locations=[experiment], filter_string="tags.`sage.model` = 'm1'", include_spans=True
    )
    assert sorted(trace.info.tags["sage.situation"] for trace in traces) == ["s1", "s2"]
    trace = next(each for each in traces if each.info.tags["sage.situation"] == "s1")
    assert trace.info.trace_metadata["mlflow.sourceRun"] == runs["m1"]
    root, reply = trace.data.spans
    assert [each["content"] for each in root.outputs["messages"]] == ["My cat!", "m1, 1"]
    assert reply.inputs["messages"] == [{"role": "user", "content": "My cat!"}]
    assert reply.get_attribute("sees")["emotion"] == "sad"

    mlflow.log_feedback(trace_id=trace.info.trace_id, name="warm", value=True)
    (assessment,) = client.get_trace(trace.info.trace_id).info.assessments
    assert (assessment.name, assessment.value) == ("warm", True)

    (dataset,) = mlflow.genai.datasets.search_datasets(experiment_ids=[experiment])
    rows = dataset.to_df()
    assert len(rows) == 4
    assert {row["model"] for row in rows["inputs"]} == {"m0", "m1"}
    assert all(row == {"emotion": "sad"} for row in rows["expectations"])


def test_a_store_that_takes_no_traces_costs_a_warning(
    tracker: tracking.Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**arguments: object) -> None:
        raise MlflowException("no traces here")

    monkeypatch.setattr(mlflow, "search_traces", refuse)
    with pytest.warns(UserWarning, match="no traces here"):
        log_dialogues("1", tracker.run_id, {}, {}, "dialogues")


def wait_for_load(run_id: str) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        metrics = mlflow.MlflowClient().get_run(run_id).data.metrics
        if "system/cpu_utilization_percentage" in metrics:
            return
        time.sleep(0.1)
    raise AssertionError("the load of the machine was not logged")


def test_a_run_shows_what_its_stages_took(
    home: Path, made_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made or found, after an error too; the load of the machine beside them."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING", "1")
    from sage_core.storage import ArtifactRef
    from tasks import caching
    from tasks.home import store

    shutil.copy(made_database, home / "mlflow.db")
    cost = {
        "seconds": 2.0,
        "engines": {"a": {"prompt_tokens": 100, "completion_tokens": 30}},
        "usd": 0.5,
        "memory": {"peak_memory_gb": 3.0},
    }
    refs = [
        store().build(
            f"search-shard/{number}",
            lambda folder: (folder / "file").touch(),
            {"stage": "search-shard", "label": "", "cost": cost},
        )
        for number in range(2)
    ]

    def report(ref: ArtifactRef, hit: bool) -> None:
        for listener in caching._listeners:
            listener("search-shard", caching.Cached(ref, hit))

    runs = []

    def failing_run() -> None:
        with tracking.track(load_config("tiny")) as tracker:
            runs.append(tracker.run_id)
            report(refs[0], hit=True)
            report(refs[1], hit=False)
            report(refs[1], hit=True)  # asked for twice
            wait_for_load(tracker.run_id)
            raise ValueError("the stage after")

    with pytest.raises(ValueError, match="the stage after"):
        failing_run()
    run = mlflow.MlflowClient().get_run(runs[0])
    assert run.info.status == "FAILED"
    logged = run.data.metrics
    stage = {name: logged[f"cost.search-shard.{name}"] for name in (
        "artefacts", "seconds", "tokens_read", "tokens_written", "tokens_per_s", "usd",
        "peak_memory_gb",
    )}  # fmt: skip
    assert stage == {
        "artefacts": 2, "seconds": 4, "tokens_read": 200, "tokens_written": 60,
        "tokens_per_s": 15, "usd": 1, "peak_memory_gb": 3,
    }  # fmt: skip
    assert logged["cost.total.seconds"] == 4
    assert logged["cost.total.artefacts_made"] == 1


def test_a_locked_database_is_waited_for_as_long_as_we_say(
    home: Path, made_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow alone would fail after 20 s; here that is one second, to see that it is ours."""
    shutil.copy(made_database, home / "mlflow.db")
    tracker = tracking.Tracker(load_config("tiny"))
    monkeypatch.setattr(tracking_store, "_BUSY_TIMEOUT_S", 1)
    with closing(sqlite3.connect(home / "mlflow.db", isolation_level=None)) as other:
        other.execute("begin exclusive")
        began = time.monotonic()
        with pytest.raises(MlflowException, match="locked"):
            tracker.finish("FAILED")
        assert time.monotonic() - began < 15
        other.execute("rollback")
    tracker.finish("FINISHED")


def test_the_first_error_is_the_one_that_is_shown(
    home: Path, made_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(made_database, home / "mlflow.db")

    def fail(self: object, status: str) -> None:
        raise MlflowException("database is locked")

    monkeypatch.setattr(tracking.Tracker, "finish", fail)
    with pytest.raises(ArtifactError, match="disk full") as error:  # noqa: SIM117
        with tracking.track(load_config("tiny")):
            raise ArtifactError("disk full")
    assert "database is locked" in error.value.__notes__[0]


def test_benchmarks_are_metrics_of_their_model(
    home: Path, made_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every metric, and of the shown one its error and its change."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'shared.db'}")
    shutil.copy(made_database, home / "shared.db")
    strict, flexible = "exact_match,strict-match", "exact_match,flexible-extract"
    table = {
        "baseline": "m0",
        "models": ["m0"],
        "tasks": [{"task": "gsm8k", "shown": strict}],
        "scores": [
            {"model": "m0", "task": "gsm8k", "metric": strict, "value": 0.25, "stderr": 0.1},
            {"model": "m0", "task": "gsm8k", "metric": flexible, "value": 0.5, "stderr": None},
        ],
        "changes": [
            {"model": "m0", "task": "gsm8k", "metric": strict, "relative": None, "p_holm": 0.5},
            {"model": "m0", "task": "gsm8k", "metric": flexible, "relative": 9.0, "p_holm": None},
        ],
    }
    empathy = {
        "recognition": [{"way": "asked", **{name: {"value": 0.5} for name in
                                            ("exact", "top", "polarity")}}],
        "probe": {"claims_human": {"asked": {"value": 0.1}, "assumed": {"value": None}}},
    }  # fmt: skip

    def artefact(name: str, content: object) -> ArtifactRef:
        return store().build(name, lambda to: write_json(to / f"{name[:-2]}.json", content), {
            "config_hash": "", "code_hash": ""})  # fmt: skip

    with held():
        tracker = tracking.Tracker(load_config("tiny"))
        tracker.base(artefact("base/0", {}))
        tracker.benchmarks(artefact("benchmarks/0", table))
        tracker.empathy({"m0": artefact("empathy/0", empathy)})
        tracker.benchmarks(None)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{home / 'shared.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'sage-tiny'")
    (run,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'm0'")
    assert run.data.metrics == {
        "benchmark.gsm8k": 0.25,
        "benchmark.gsm8k.stderr": 0.1,
        "benchmark.gsm8k.exact_match.strict-match": 0.25,
        "benchmark.gsm8k.exact_match.flexible-extract": 0.5,
        "benchmark.gsm8k.vs_m0.p_holm": 0.5,
        "emotion_recognition.asked.exact": 0.5,
        "emotion_recognition.asked.top": 0.5,
        "emotion_recognition.asked.polarity": 0.5,
        "claims_human.asked": 0.1,
    }
