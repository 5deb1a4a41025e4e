"""The table of `make bench-annotation`, on scores written down here."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import annotation, harness

EMOTIONS = ("joyful", "sad", "surprised")
COMMON = np.array([-9.0, 0.0, -5.0])  # sad is said most, whatever is asked


def situations(each: int) -> tuple[np.ndarray, list[int]]:
    """``each`` of every emotion; its own one gains a point."""
    labels = [label for label in range(3) for _ in range(each)]
    return COMMON + np.eye(3)[labels], labels


def test_calibration_is_compared_with_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncalibrated all are sad: right for 20 of 60. surprised has no sign, so 40 have one."""
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    scores, labels = situations(20)
    with pytest.raises(SystemExit) as done:
        annotation.report(scores, labels, EMOTIONS, situations(1)[0])
    table = (tmp_path / "annotation.md").read_text("utf-8")
    assert "| top-1 of 3 emotions | 100.0% [94.0%, 100.0%] of 60 | 33.3%" in table
    assert "of 40 | 50.0% [35.2%, 64.8%] of 40 (uncalibrated)" in table
    # Pleasant ones alone, over their own mean, are all level: joyful is only the first.
    assert "| polarity, pleasant situations alone" in table
    assert done.value.code == 1
    assert "missed: polarity, pleasant situations alone" in table


def test_a_missed_target_is_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    scores, labels = situations(20)
    wrong = [(label + 1) % 3 for label in labels]
    with pytest.raises(SystemExit) as done:
        annotation.report(scores, wrong, EMOTIONS, situations(1)[0])
    assert done.value.code == 1
    assert "missed: top-1 of 3 emotions" in (tmp_path / "annotation.md").read_text("utf-8")
