"""Retraining of the registered champion."""

from pydantic import Field

from sage_core.config.section import Positive, Section, Share


class RetrainConfig(Section):
    """One round of retraining, and the gate that its challenger has to pass
    (:mod:`sage_core.evaluation.gate`)."""

    replay: Share = Field(
        0.5,
        lt=1.0,
        description="Share of the challenger's dialogues that the champion has been trained on.",
    )
    judge: str = Field(
        "", description="The judge that counts, of evaluation.judges; empty = the first."
    )
    situations: Positive = Field(
        16,
        description="Held-out situations of one decision. No later decision uses them again.",
    )
    error_rate: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Probability, over all rounds together, that a challenger is promoted which "
        "the judge does not prefer. Round k spends 6 / (pi^2 k^2) of it.",
    )
    max_benchmark_drop: Share = Field(
        0.02, description="Share of the champion's score that a benchmark may fall."
    )
    approval: bool = Field(
        False,
        description="Leave the last word to a person: a challenger that passes gets the alias "
        "'candidate'. Its flow run waits for an answer in Prefect's UI; `sage promote` is one too.",
    )
    approval_days: float = Field(
        7.0, gt=0, description="Days that a person has; without an answer it is not promoted."
    )
