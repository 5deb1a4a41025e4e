"""The command line: results as JSON, and wrong input as one message with exit code 2."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from command_line import sage

from flows import environment
from sage_core.schema import Judgement
from sage_core.storage import read_rows, write_rows


def process(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "SAGE_HOME": str(home), "COLUMNS": "200"},
        timeout=240,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--preset", "huge"], ["'huge'", "tiny, demo, paper"]),
        (["run", "--set", "search.candidate=4"], ["search.candidate", "candidates"]),
        (["run", "--set", "search.candidates=many"], ["search.candidates", "'many'", "integer"]),
        (["run", "--set", "corpus.span=all"], ["corpus.span", "'all'", "longest_run"]),
        (["run", "--set", "seed"], ["'seed'", "KEY=VALUE"]),
        (["judge", "stats", "no-such-file"], ["no-such-file"]),
        (["corpus", "build", "--output", "x", "--set", "corpus.rules=[wrds]"], ["wrds", "words"]),
        (["corpus", "build", "--output", "x", "--reader", "messages"], ["corpus.input"]),
        (["corpus", "build", "--output", "x", "--reader", "messages", "--input", "no.jsonl"],
         ["no.jsonl"]),
        (["deploy"], ["sage ui"]),
        (["plan", "--set", "plan.gpu=B52"], ["plan.gpu", "'B52'", "H100-80GB"]),
        (["plan", "--set", "corpus.max_dialogues=0"], ["plan.dialogues"]),
        (["plan", "--used"], ["no finished run", "sage run"]),
        (["export", "m7", "x"], ["m7", "none yet"]),
        (["export", "m1", "x", "--push", "name"], ["'name'", "ORG/NAME"]),
        (["export", "m1", "tests"], ["'tests' is not empty"]),
        (["steer", "report", "--model", "m0", "--output", "x"], ["m0", "no states", "dpo"]),
        (["steer", "report", "--model", "m7", "--output", "x"], ["m7", "none yet"]),
        (["steer", "report", "--model", "m1", "--output", "x",
          "--set", "steering_report.boosted=[mood=good]"], ["mood", "emotion"]),
    ],
)  # fmt: skip
def test_wrong_input_is_one_message_and_exit_code_2(
    tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    done = sage(*arguments, home=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_a_process_ends_in_the_same_way(tmp_path: Path) -> None:
    done = process("run", "--preset", "huge", home=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "'huge'" in done.stderr


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.base={folder}", ["without *.safetensors"]),
        ("situations.path=no-situations.jsonl", ["no-situations.jsonl"]),
        ("mixture.instructions.input=no-tasks.jsonl", ["no-tasks.jsonl"]),
        ("mixture.corpora=[{{reader: sharegpt, input: no-chats.json}}]", ["no-chats.json"]),
        ("search.candidates=40", ["search.candidates", "26"]),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(
    tmp_path: Path, override: str, words: list[str]
) -> None:
    folder = tmp_path / "no-weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    done = sage(
        "run", "--preset", "tiny", "--set", override.format(folder=folder), home=tmp_path / "home"
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "home").exists()


@pytest.fixture(scope="module")
def used_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home for runs that fail: the first of them makes the databases."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.base=NO/SUCH-MODEL", ["NO/SUCH-MODEL", "ORG/NAME"]),
        ("corpus.min_mean_words=900", ["no dialogue is left", "corpus.min_mean_words"]),
    ],
)
def test_a_run_that_fails_says_why_and_leaves_nothing_unfinished(
    used_home: Path,
    tiny_base: Path,
    monkeypatch: pytest.MonkeyPatch,
    override: str,
    words: list[str],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # no minute of retries where there is no network
    done = process(
        "run", "--preset", "tiny", "--set", f"model.base={tiny_base}", "--set", override,
        "--set", "corpus.max_read=20", home=used_home,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert list((used_home / "artifacts").glob("*/.*")) == []


def test_judge_stats_prints_pair_summaries(tmp_path: Path) -> None:
    # Two items: m1 wins one in both orders; the orders of the other disagree, so it is a tie.
    verdicts = [("1", "ab", "model_b"), ("1", "ba", "model_b"), ("2", "ab", "model_a"),
                ("2", "ba", "model_b")]  # fmt: skip
    rows = [
        Judgement(item, "j", "m0", "m1", order, verdict, "") for item, order, verdict in verdicts
    ]  # type: ignore[arg-type]
    path = tmp_path / "judgements.parquet"
    write_rows(path, rows, Judgement)
    assert read_rows(path, Judgement) == rows
    done = sage("judge", "stats", str(path), "--json", home=tmp_path)
    assert done.returncode == 0, done.stderr
    [summary] = json.loads(done.stdout)
    counts = {key: summary[key] for key in ("n", "wins_a", "ties", "wins_b", "unparsed")}
    assert counts == {"n": 2, "wins_a": 0, "ties": 1, "wins_b": 1, "unparsed": 0}


def test_corpus_build_writes_its_tables(tmp_path: Path) -> None:
    output = tmp_path / "corpus"
    done = process(
        "corpus", "build", "--output", str(output), "--json",
        "--set", "corpus.span=longest_run", "--set", "corpus.max_read=200", home=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    funnel = json.loads(done.stdout)
    assert funnel[0]["step"] == "read"
    assert funnel[0]["kept"] == 200
    assert {path.name for path in output.iterdir()} == {
        "dialogues.parquet", "rejected.parquet", "funnel.json", "quarantine.jsonl", "data_card.md",
    }  # fmt: skip


def test_doctor_finds_what_the_demo_needs(tmp_path: Path) -> None:
    done = process("doctor", "--preset", "demo", "--json", home=tmp_path)
    checks = json.loads(done.stdout)
    assert done.returncode == 0, checks
    assert {"base model smollm2-135m-instruct", "dialogues", "situations"} <= {
        check["what"] for check in checks
    }


def test_doctor_names_the_fix(tmp_path: Path) -> None:
    done = sage(
        "doctor", "--preset", "demo", "--json", "--set", "model.base=NO/SUCH", home=tmp_path,
        PREFECT_HOME=str(tmp_path / "prefect"),
    )  # fmt: skip
    assert done.returncode == 1
    missing = {check["what"]: check["fix"] for check in json.loads(done.stdout) if not check["ok"]}
    assert "hf download NO/SUCH" in missing["base model NO/SUCH"]


def test_warnings_of_ours_are_shown_and_those_of_libraries_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with warnings.catch_warnings(record=True) as shown:
        environment.quieten()
        for module in ("tasks.prompts", "transformers.modeling_utils"):
            warnings.warn_explicit(module, UserWarning, "file.py", 1, module)
    assert [str(each.message) for each in shown] == ["tasks.prompts"]
