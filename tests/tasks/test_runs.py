"""Finding finished runs."""

from pathlib import Path

import pytest
from finished_home import finished_run

from sage_core.errors import ConfigError
from sage_core.steps.names import RUN
from tasks import runs


@pytest.fixture
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two runs of one home, the keys 0000000c and 0001000f."""
    monkeypatch.setenv("SAGE_HOME", str(tmp_path / "home"))
    return [finished_run(tmp_path / "home", 12), finished_run(tmp_path / "home", 15, seed=1)]


def test_the_ways_to_name_a_run(reports: list[Path], tmp_path: Path) -> None:
    first, second = reports
    ways = {
        "0000": first,
        "0001000f": second,
        "last": second,
        str(first): first,
        str(first / "report.html"): first,
        str(tmp_path / "home"): second,
    }
    assert {way: runs.find(way).folder for way in ways} == ways
    assert [each.folder for each in runs.finished()] == [second, first]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("m2", "is not a run"),
        ("000", "is not a run"),
        ("abcd", "0001000f, 0000000c"),
        ("", "is not a run"),
    ],
)
def test_what_is_no_run(reports: list[Path], reference: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        runs.find(reference)


def test_a_key_that_begins_several(reports: list[Path], tmp_path: Path) -> None:
    finished_run(tmp_path / "home", 16, seed=0)
    with pytest.raises(ConfigError, match="'0000' is the start of 2 keys"):
        runs.find("0000")


def test_a_report_of_an_older_version(reports: list[Path]) -> None:
    (reports[1] / RUN).unlink()
    with pytest.raises(ConfigError, match=r"has no run.json.*`sage run`"):
        runs.find("last")
    assert len(runs.finished()) == 1


def test_an_empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="none yet, see `sage run`"):
        runs.find("last")
    (tmp_path / "artifacts").mkdir()
    with pytest.raises(ConfigError, match="has no finished run"):
        runs.find(str(tmp_path))


def test_conversations_of_another_home_have_a_whole_path(
    reports: list[Path], tmp_path: Path
) -> None:
    other = finished_run(tmp_path / "other", 12)
    here, there = (runs.find(str(each)).rollouts("m2") for each in (reports[0], other))
    assert here.path == "trajectories/m2"
    assert Path(there.path) == tmp_path / "other" / "artifacts" / "trajectories" / "m2"
    with pytest.raises(ConfigError, match="no model 'm9'; its models are m1, m2"):
        runs.find("last").rollouts("m9")
