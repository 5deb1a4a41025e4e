"""The table of `make bench-capabilities`, on figures written down here; lm-eval's own are in
benchmarks/results."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import capabilities, harness


def figure(value: float, n: int = 100) -> dict[str, Any]:
    return {"value": value, "n": n}


def test_a_figure_is_met_within_the_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PIQA's two metrics are equal and one error off; SIQA is more than one off."""
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    monkeypatch.setattr(capabilities.harness, "version", lambda: "0.4.13")
    hand = {
        ("piqa", "acc"): (0.5, 0.0625),
        ("piqa", "acc_norm"): (0.5, 0.0625),
        ("social_iqa", "acc"): (0.25, 0.0625),
    }
    ours = {
        ("piqa", "acc"): figure(0.5),
        ("piqa", "acc_norm"): figure(0.4375),
        ("social_iqa", "acc"): figure(0.375),
    }
    with pytest.raises(SystemExit) as done:
        capabilities.report(ours, hand, ["gsm8k"], "float32")
    assert done.value.code == 1
    table = (tmp_path / "capabilities.md").read_text("utf-8")
    assert "| PIQA, acc, 100 documents | 0.5000 | 0.5000 | +0.0000 | ± 0.0625 | yes |" in table
    assert "| PIQA, acc_norm, 100 documents | 0.4375 | 0.5000 | -0.0625 | ± 0.0625 | yes |" in table
    assert "| SIQA, acc, 100 documents | 0.3750 | 0.2500 | +0.1250 | ± 0.0625 | NO |" in table
    assert "1 of 3 figures are equal" in table
    assert "Left out for want of a file: gsm8k" in table


def test_lm_evals_figures_have_our_names() -> None:
    found = capabilities._figures(
        "gsm8k",
        {
            "alias": "gsm8k",
            "exact_match,strict-match": 0.25,
            "exact_match_stderr,strict-match": 0.125,
            "acc,none": 0.5,
            "acc_stderr,none": 0.25,
            "other,none": 1.0,
            "other_stderr,none": "N/A",
        },
    )
    assert found == {
        ("gsm8k", "exact_match,strict-match"): (0.25, 0.125),
        ("gsm8k", "acc"): (0.5, 0.25),
        ("gsm8k", "other"): (1.0, 0.0),
    }
