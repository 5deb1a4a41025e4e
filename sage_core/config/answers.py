"""How a model that answers questions is asked, and how many of its answers may be missing."""

from pydantic import Field

from sage_core.config.section import NonNegative, Positive, Runtime, Section, Share


class UnreadSection(Section):
    """A role of which some answers may be missing."""

    max_unread_share: Runtime[Share] = Field(
        0.05,
        description="Largest share of unread answers (cut, refused, of another form, failed); "
        "above it the stage fails. In self-play: of the selector's, and of dialogues that end "
        "since a request failed.",
    )


class AnswersSection(UnreadSection):
    """A role that answers in words."""

    answer_tokens: Positive = Field(128, description="Tokens of an answer; reasoning not counted.")
    reasoning_tokens: NonNegative = Field(
        0,
        description="Tokens more, for a model that reasons before it answers; with some, no "
        "grammar holds the answer. 0 = it does not reason.",
    )

    @property
    def budget(self) -> int:
        """Tokens of a completion at most: servers know one limit for both."""
        return self.answer_tokens + self.reasoning_tokens
