"""Rollouts, judges and measures."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sage_core.config.answers import AnswersSection
from sage_core.config.conversation import SelfPlayConfig
from sage_core.config.engine import EngineConfig, TransformersConfig
from sage_core.config.section import NonNegative, Positive, Runtime, Section
from sage_core.evaluation.prompts import PROMPTS

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class JudgeConfig(AnswersSection):
    """One LLM judge (section 4.6)."""

    name: str = Field(pattern=_NAME)
    engine: EngineConfig = TransformersConfig()
    prompt: Annotated[str, PROMPTS] = Field(
        "open",
        description="'open': the judge's own sense of a good social chatbot, as in the paper; "
        "'companion': with the criteria of the paper's release; 'prompts:/name/version' or "
        "'prompts:/name@alias': from MLflow's prompt registry.",
    )
    soft: bool = Field(
        False,
        description="Also ask for the probabilities of both answers, for a soft verdict; the "
        "engine has to give them.",
    )
    family: Runtime[str] = Field(
        "", description="Family of its model, such as 'gpt'; empty = by the model's name."
    )


class ClassifierConfig(Section):
    """A text classifier that reads every reply (:mod:`sage_core.evaluation.classifiers`)."""

    name: str = Field(
        pattern=_NAME, description="What it finds, such as toxicity or refusal; of its metrics."
    )
    path: Path = Field(description="Its folder, as transformers' save_pretrained writes it.")
    label: str = Field(description="The class whose probability is taken, by its config.json.")


class QualityConfig(Section):
    """What the measures without a judge cost (:mod:`sage_core.evaluation.measuring`)."""

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
    judged_situations: NonNegative = Field(
        0,
        description="Held-out situations whose conversations are judged, the first ones; 0 = all. "
        "Measures without a judge, and the rounds of retraining, take all.",
    )
    pairs: Literal["paper", "all", "design"] = Field(
        "paper",
        description="Pairs of models that are judged: 'paper': those of its Table 1; 'all'; "
        "'design': those that intervals of `interval_width` need.",
    )
    interval_width: float = Field(
        0.2,
        gt=0,
        le=2,
        description="Widest 95% interval of the difference of wins over items between two models, "
        "with pairs = 'design'.",
    )
    human: Path | None = Field(
        None,
        description="Preferences of people that the judges are compared with: MT-bench, LLMBar, "
        "PandaLM, or chosen and rejected replies; empty = none.",
    )
    human_items: NonNegative = Field(200, description="Of these, how many are judged; 0 = all.")
    quality: QualityConfig = QualityConfig()
    classifiers: tuple[ClassifierConfig, ...] = Field(
        (), description="Text classifiers that read every reply; empty = none."
    )
    bootstrap_samples: Positive = 10_000

    def judged_of(self, situations: int) -> int:
        """How many of as many held-out situations are judged."""
        return min(situations, self.judged_situations or situations)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for what, named in (("judges", self.judges), ("classifiers", self.classifiers)):
            names = [each.name for each in named]
            if len(set(names)) != len(names):
                raise ValueError(f"two {what} have the same name among {names}; give each its own")
        return self
