"""The decision of a round of retraining, as Prefect's page shows it."""

from typing import Any

from flows.described import decision_table

COLUMNS = ["check", "champion", "challenger", "value", "needed", "passed"]
RECORD: dict[str, Any] = {
    "checks": [
        dict(
            zip(COLUMNS, ["win rate, judge j", "0 wins", "8 wins", "+1", "> 0", True], strict=True)
        ),
        dict(zip(COLUMNS, ["benchmarks", "-", "-", "none", "-", None], strict=True)),
    ],
    "champion": 5,
    "challenger": 6,
    "new_dialogues": 4,
    "replayed_dialogues": 0,
    "seed": 1,
    "error_rate": 0.3039635509270133,
    "champion_sha256": "a" * 64,
    "challenger_sha256": "b" * 64,
    "held_out_situations": ["s1", "s2"],
}


def test_every_input_is_on_the_page_and_readable() -> None:
    table = decision_table(RECORD)
    assert all(sorted(row) == sorted(COLUMNS) for row in table)
    values = {row["check"]: row["value"] for row in table}
    assert values["held-out situations"] == "2"
    assert values["error rate"] == "0.304"
    assert {
        "champion",
        "challenger",
        "new dialogues",
        "replayed dialogues",
        "seed",
    } <= values.keys()
    assert values["champion sha256"] == "a" * 12
    # Prefect reads cells as Markdown: "-" is a bullet; long words hide columns.
    assert not any(cell == "-" or len(str(cell)) > 30 for row in table for cell in row.values())


def test_long_cells_go_on_in_the_next_row() -> None:
    """Prefect's page breaks no line: what is needed, and whether it passed, stays in sight."""
    said = "interval [+0.72, +1.00], 0 ties, n = 8, 0 unparsed"
    first = {**RECORD["checks"][0], "value": said, "needed": "interval above zero"}
    table = decision_table({**RECORD, "checks": [first]})
    assert list(table[0]) == ["check", "passed", "champion", "challenger", "value", "needed"]
    assert [row["value"] for row in table[:3]] == [
        "interval [+0.72, +1.00],", "0 ties, n = 8, 0", "unparsed",
    ]  # fmt: skip
    assert [row["needed"] for row in table[:3]] == ["interval above zero", "", ""]
    assert [row["passed"] for row in table[:3]] == [True, None, None]
