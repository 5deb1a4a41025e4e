"""Dialogues that come later: new data of a week."""

import json
from pathlib import Path


def weather_dialogues(folder: Path, week: int, weather: str) -> str:
    """Write four dialogues of two turns into a data folder, and say the file's name."""
    rows = [
        {"messages": [
            {"role": "user", "content": f"It was {weather} on day {day} of week {week}."},
            {"role": "assistant", "content": f"How {weather} was it, then, number {day}?"},
        ]}
        for day in range(4)
    ]  # fmt: skip
    folder.mkdir(exist_ok=True)
    file = folder / f"week-{week}.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file.name
