"""Measured values as text, for the tables of the terminal."""

from collections.abc import Mapping
from typing import Any


def with_interval(value: Mapping[str, Any], form: str) -> str:
    """``value`` and its 95% interval, each in ``form``; "-" where nothing was counted."""
    if value["value"] is None:
        return "-"
    text = form.format(value["value"])
    if value["ci_low"] is None:
        return text
    return f"{text} [{form.format(value['ci_low'])}, {form.format(value['ci_high'])}]"
