"""The states of the dialogues."""

from typing import Literal, Self

from pydantic import Field, model_validator

from sage_core.config.answers import AnswersSection
from sage_core.config.engine import EngineConfig, TransformersConfig, those_that
from sage_core.config.section import NonNegative, Positive
from sage_core.states import SCORED, TOPIC, StateField


class AnnotationConfig(AnswersSection):
    """An LLM gives every utterance its state (section 4.2)."""

    engine: EngineConfig = TransformersConfig()
    method: Literal["write", "score"] = Field(
        "write",
        description="'write': the model writes the values down; 'score': it chooses from the lists "
        "by its probabilities, which a small model does far better.",
    )
    context_turns: NonNegative = Field(2, description="Earlier turns shown to the annotator.")
    motivations: tuple[str, ...] = Field((), description="Allowed values; empty = free text.")
    emotions: tuple[str, ...] = Field((), description="Allowed values; empty = free text.")
    topics: Literal["written", "extracted"] = Field(
        "written",
        description="'written': as the model writes them; 'extracted': words of the dialogue only, "
        "of what it writes or, with method 'score', the utterance's most telling ones.",
    )
    max_topics: Positive = TOPIC.most
    calibration: Literal["corpus", "situations"] = Field(
        "corpus",
        description="With method 'score': whose mean the emotions' scores are compared with: the "
        "corpus' own, or the situations', for a corpus of one sentiment, whose own mean would take "
        "that sentiment out.",
    )
    margin: float = Field(
        0.0,
        ge=0,
        description="With method 'score': how far (nats) the best value must be ahead of the "
        "second, or it is left empty.",
    )
    temperature: float = Field(0.0, ge=0)
    rewrite: bool = Field(False, description="Rewrite each utterance to read well.")
    bridging_question: bool = Field(
        False, description="Add a question to a reply without one, towards the next user turn."
    )
    shard_size: Positive = Field(32, description="Dialogues per cached task.")

    def allowed(self, field: StateField) -> tuple[str, ...]:
        """The values that a field of one value may have; empty = free text."""
        values: tuple[str, ...] = () if field.many else getattr(self, field.plural, ())
        return values

    def most(self, field: StateField) -> int:
        """How many values a list may have."""
        most: int = getattr(self, f"max_{field.plural}", field.most)
        return most

    @property
    def compares_situations(self) -> bool:
        return self.method == "score" and self.calibration == "situations"

    @model_validator(mode="after")
    def _can_score(self) -> Self:
        if self.method == "write":
            return self
        for field in SCORED:
            values = self.allowed(field)
            if len({value.casefold() for value in values}) < max(2, len(values)):
                raise ValueError(
                    f"method 'score' chooses from {field.plural}; list two or more different "
                    "values, or set method to 'write'"
                )
        if self.topics != "extracted":
            raise ValueError(
                "method 'score' writes no topics; set topics to 'extracted', or method to 'write'"
            )
        if not self.engine.traits.scores_replies:
            raise ValueError(
                "method 'score' needs the probability of every value, which only "
                f"{those_that('scores_replies')} give; change engine, or set method to 'write'"
            )
        return self
