"""The evidence of steering."""

from pydantic import Field

from sage_core.config.section import NonNegative, Positive, Runtime, Section
from sage_core.states import StateField


class SteeringReportConfig(Section):
    """What shows how far m1 can be steered (paper section 5.3, Tables 3 to 5): a dose-response
    curve, the faithfulness of replies to the action, and replies under forced values."""

    enabled: Runtime[bool] = Field(
        True, description="Whether a run measures it; `sage steer report` does."
    )
    situations: NonNegative = Field(16, description="Held-out situations; 0 = all of the half.")
    boosted: tuple[str, ...] = Field(
        ("emotion=playful",), description="FIELD=KEYWORD of the agent, one curve each."
    )
    boosts: tuple[float, ...] = Field(
        (0.0, 0.5, 1.0, 2.0, 4.0, 8.0), description="Added to the keyword's logits."
    )
    draws: Positive = Field(4, description="Replies drawn per situation and boost.")
    motivation_pairs: tuple[tuple[str, str], ...] = Field(
        (("humor", "sympathy"), ("suggestion", "disagreement")),
        description="Actions that replies are compared under; empty = none.",
    )
    emotion_pairs: tuple[tuple[str, str], ...] = Field(
        (), description="As motivation_pairs, for the agent's emotion."
    )
    wordings: Positive = Field(
        3,
        description="Replies drawn under each action of the pairs, for the share of a reply's "
        "variance that the action decides; 1 = not measured.",
    )
    shown_situations: NonNegative = Field(
        2, description="Situations whose replies under forced values are shown; 0 = none."
    )
    emotions: tuple[str, ...] = Field(
        ("optimism", "pessimistic", "mixed", "playful", "philosophical"),
        description="Forced and shown; the paper's Table 3.",
    )
    motivations: tuple[str, ...] = Field(
        (
            "reassurance", "sympathy", "humor", "empathy", "clarification", "encouragement",
            "concern", "suggestion", "request", "disagreement", "interest", "philosophical",
            "reminiscing", "teasing", "homesickness",
        ),
        description="Forced and shown; the paper's Table 4.",
    )  # fmt: skip
    topics: tuple[tuple[str, ...], ...] = Field(
        (
            ("sport",), ("transportation",), ("music",), ("movie",), ("politics",), ("economy",),
            ("sport", "transportation", "music", "movie", "politics", "economy"),
            ("apple", "bridge", "cloud", "drum", "eagle"),
        ),
        description="Lists of topics, forced and shown; the paper's Table 5.",
    )  # fmt: skip
    max_new_tokens: Positive = Field(60, description="Of an utterance, or of the states alone.")

    def pairs(self, field: StateField) -> tuple[tuple[str, str], ...]:
        """The values of a field that replies are compared under."""
        pairs: tuple[tuple[str, str], ...] = getattr(self, f"{field.name}_pairs", ())
        return pairs

    def forced(self, field: StateField) -> tuple[tuple[str, ...], ...]:
        """What a field is set to in the replies that are shown."""
        choices = getattr(self, field.plural, ())
        return choices if field.many else tuple((value,) for value in choices)
