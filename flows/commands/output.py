"""What commands print."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from sage_core.answers.tally import Tally, joined
from sage_core.steps.names import ANSWERS
from sage_core.storage import read_json

out = Console()
errors = Console(stderr=True)


def print_json(value: Any) -> None:
    """Print a result of ``--json``."""
    print(json.dumps(value, indent=2))  # noqa: T201


def print_answers(folder: Path) -> None:
    """Say how many answers of the models were read, as the result in ``folder`` counts them; on
    standard error, since the result's path is what a script reads."""
    print_tally(joined([read_json(folder / ANSWERS)]))


def print_tally(tally: Tally) -> None:
    """Likewise, of a tally."""
    for line in tally.lines():
        errors.print(line, soft_wrap=True, highlight=False, markup=False)


def print_path(path: Path) -> None:
    """Print where a result is, on one line of any length."""
    out.print(str(path), soft_wrap=True, highlight=False)
