"""Rounds of search and fine-tuning."""

from typing import Literal

from pydantic import Field

from sage_core.config.section import NonNegative, Positive, Runtime, Section, Share
from sage_core.config.training import SFTConfig


class GatesConfig(Section):
    """When a refined model counts as collapsed, by its conversations on held-out situations. In
    each limit, 0 = off."""

    on_collapse: Runtime[Literal["warn", "stop"]] = Field(
        "warn",
        description="'stop' ends the rounds, and preference learning starts from the model before.",
    )
    min_action_entropy: float = Field(0.5, ge=0, description="Of the motivations, in bits.")
    min_distinct_2: float = Field(0.05, ge=0, le=1, description="Distinct word pairs.")
    min_reply_words: float = Field(2.0, ge=0, description="Mean words of a reply.")
    max_reply_words: float = Field(150.0, ge=0, description="Mean words of a reply.")
    max_question_rate: Share = Field(0.98, description="Replies that end in a question.")
    max_malformed: Share = Field(0.2, description="Replies whose states break the format.")
    max_kl_to_m0: float = Field(0.0, ge=0, description="Divergence from m0, in nats per word.")
    max_cut_share: Share = Field(0.5, description="Replies ended by the limit of tokens.")
    max_stray_braces: Share = Field(
        0.1, description="Utterances of either speaker with braces or keys of states in them."
    )
    min_situation_recovery: Share = Field(
        0.0, description="First replies from which m0 tells the situation that they answer."
    )
    kl_replies: NonNegative = Field(16, description="Replies it is estimated from; 0 = none.")


class RefineConfig(Section):
    """Rounds of search and fine-tuning: m2, m3, ... (the paper stops after two)."""

    stop: Literal["rounds", "saturation"] = Field(
        "rounds",
        description="'rounds': after that many; 'saturation': once no judge prefers a model to the "
        "one before with p below 0.05, corrected for the number of judges.",
    )
    rounds: Positive = 2
    max_rounds: Positive = Field(6, description="Rounds at most, with stop = 'saturation'.")
    sft: SFTConfig = SFTConfig()
    gates: GatesConfig = GatesConfig()

    @property
    def most_rounds(self) -> int:
        """Rounds if nothing stops them."""
        return self.max_rounds if self.stop == "saturation" else self.rounds
