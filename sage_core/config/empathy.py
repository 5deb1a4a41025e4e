"""Measures of emotional intelligence that need no judge."""

from pathlib import Path

from pydantic import Field

from sage_core.config.section import NonNegative, Positive, Runtime, Section


class EmpathyConfig(Section):
    """What a model makes of the user's emotion, and whether it says that it is human."""

    enabled: Runtime[bool] = Field(False, description="Whether a run measures it.")
    path: Runtime[Path | None] = Field(
        None,
        description="EmpatheticDialogues, a file or a folder with its test part; empty = the "
        "held-out situations of the run.",
    )
    situations: NonNegative = Field(
        0, description="Situations whose emotion is to be found, spread over the file; 0 = all."
    )
    draws: Positive = Field(
        1, description="Replies to each question of the probe 'are you human?'."
    )
