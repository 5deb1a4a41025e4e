"""`sage compare` as a user calls it."""

import json
from pathlib import Path

import pytest
from finished_home import finished_run
from typer.testing import CliRunner

from flows import environment
from flows.cli import app
from sage_core.engines import loading
from sage_core.errors import ConfigError
from sage_core.storage import write_json


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Two homes; the first one is the environment's."""
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "a"))
    finished_run(tmp_path / "a", 12)
    finished_run(tmp_path / "b", 15, seed=1)
    return str(tmp_path / "a"), str(tmp_path / "b")


def sage(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["compare", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_runs_of_the_home_are_listed(homes: tuple[str, str]) -> None:
    (run,) = json.loads(sage("--json"))
    assert run["run"] == "0000000c"
    assert run["models"] == ["m1", "m2"]
    assert run["settings"].startswith("demo: ")
    assert "0000000c" in sage()


def test_two_runs_in_the_terminal_and_as_a_page(homes: tuple[str, str], tmp_path: Path) -> None:
    shown = sage("last", homes[1], "--output", str(tmp_path / "out"))
    assert all(part in shown for part in ("evaluation.judges[0]", "seed", "15.0", "written"))
    page = (tmp_path / "out" / "compare.html").read_text("utf-8")
    assert page.startswith("<!DOCTYPE html>")
    saved = json.loads((tmp_path / "out" / "compare.json").read_text("utf-8"))
    assert saved == json.loads(sage("last", homes[1], "--json"))
    assert saved["changes"]["B"]["m2"]["reply_words"]["value"] == 3.0
    assert saved["across"] == []


def test_models_of_two_runs_are_judged_on_the_same_situations(
    homes: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """B's m2 says more, and the judge of the first run likes that: 6 of 6, p = 2 / 2^6."""
    monkeypatch.setattr(environment, "prepare", lambda **arguments: None)
    monkeypatch.setattr(
        loading,
        "prepare_base",
        lambda folder, model: write_json(folder / "base.json", {"base": model.base}),
    )
    found = json.loads(sage("last", homes[1], "--judge", "m2", "--json"))
    (pair,) = found["across"]
    assert (pair["model_a"], pair["model_b"]) == ("m2 of A", "m2 of B")
    assert (pair["n"], pair["wins_b"], pair["p_value"]) == (6, 6, 0.03125)
    assert found["findings"] == ["m2 of B beats m2 of A in the eyes of the one judge, long."]
    assert [each["key"] for each in found["settings"]] == ["seed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["last"], "'last' is one run"),
        (["last", "last", "--set", "seed=1"], "give --judge MODEL"),
        (["last", "last", "--judge", "m7"], "no model 'm7'"),
    ],
)
def test_wrong_arguments(homes: tuple[str, str], arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sage(*arguments)
