"""What was looked for on this machine."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One requirement: whether it is met, what was found, and the fix."""

    what: str
    ok: bool
    found: str
    fix: str = ""
