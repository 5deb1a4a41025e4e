"""Rollouts, judges and measures."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from sage_core.config.answers import AnswersSection
from sage_core.config.conversation import SelfPlayConfig
from sage_core.config.engine import EngineConfig, TransformersConfig
from sage_core.config.section import NonNegative, Positive, Section
from sage_core.evaluation.prompts import PROMPTS


class JudgeConfig(AnswersSection):
    """One LLM judge (section 4.6)."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    engine: EngineConfig = TransformersConfig()
    prompt: Annotated[str, PROMPTS] = Field(
        "open",
        description="'open': the judge's own sense of a good social chatbot, as in the paper; "
        "'companion': with the criteria of the paper's release.",
    )


class QualityConfig(Section):
    """What the measures without a judge cost (:mod:`sage_core.evaluation.quality`)."""

    situations: NonNegative = Field(
        64, description="Held-out situations whose first replies are matched; 0 = all."
    )
    alternatives: NonNegative = Field(
        11, description="Other situations that each reply is matched with; 0 = all."
    )
    matched_words: NonNegative = Field(
        16, description="Words at the start of a reply that m0 matches it by; 0 = all."
    )
    likelihood_replies: NonNegative = Field(
        12, description="Replies whose likelihood under m0 is measured, first ones first; 0 = none."
    )


class EvaluationConfig(Section):
    """Rollouts on held-out situations, and pairwise judging in both orders."""

    situations: NonNegative = Field(0, description="Held-out situations; 0 = all of the half.")
    selfplay: SelfPlayConfig = SelfPlayConfig(max_turns=16)
    judges: tuple[JudgeConfig, ...] = Field((JudgeConfig(name="m0"),), min_length=1)
    quality: QualityConfig = QualityConfig()
    bootstrap_samples: Positive = 10_000

    @model_validator(mode="after")
    def _judge_names_differ(self) -> Self:
        names = [judge.name for judge in self.judges]
        if len(set(names)) != len(names):
            raise ValueError(f"two judges have the same name among {names}; give each its own")
        return self
