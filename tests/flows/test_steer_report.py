"""`sage steer report`: the run's own step, shown by itself."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import cli

SMALL = {
    "situations": 1, "draws": 1, "boosts": [0.0], "wordings": 1, "emotions": ["playful"],
    "motivations": ["humor"], "topics": [["music"]], "max_new_tokens": 8, "enabled": False,
}  # fmt: skip


def test_it_is_made_once_and_shown_again(
    tiny_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGE_HOME", str(tiny_home))
    settings = [f"steering_report={json.dumps(SMALL)}", "model.base=tiny", "model.dtype=float32"]

    def report(name: str) -> dict[str, Any]:
        arguments = ["steer", "report", "--model", "m1", "--output", str(tmp_path / name),
                     *(part for each in settings for part in ("--set", each)), "--preset", "tiny",
                     "--json"]  # fmt: skip
        done = CliRunner().invoke(cli.app, arguments)
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads((tmp_path / name / "report.json").read_text())
        return found

    first = report("first")
    assert (first["model"], first["situations"], first["draws"]) == ("m1", 1, 1)
    assert "Steering m1" in (tmp_path / "first" / "report.html").read_text()
    manifests = list((tiny_home / "artifacts" / "steering-evidence").glob("*/manifest.json"))
    assert report("again") == first
    assert manifests == list(
        (tiny_home / "artifacts" / "steering-evidence").glob("*/manifest.json")
    )
    made = manifests[0].stat().st_mtime_ns
    report("once more")
    assert manifests[0].stat().st_mtime_ns == made
