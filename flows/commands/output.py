"""What commands print."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

out = Console()


def print_json(value: Any) -> None:
    """Print a result of ``--json``."""
    print(json.dumps(value, indent=2))  # noqa: T201


def print_path(path: Path) -> None:
    """Print where a result is, on one line of any length."""
    out.print(str(path), soft_wrap=True, highlight=False)
