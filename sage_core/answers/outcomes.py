"""What can become of a request for an answer."""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

Value = TypeVar("Value")

READ: Final = "read"
CUT: Final = "cut"
REFUSED: Final = "refused"
EMPTY: Final = "empty"
UNREADABLE: Final = "unreadable"

OUTCOMES = {
    READ: "an answer that was read",
    CUT: "the answer reached its token limit",
    REFUSED: "the model declined to answer",
    EMPTY: "nothing was written, or reasoning only",
    UNREADABLE: "nothing of the form that was asked for",
    "content_filter": "the server's content filter refused the request or the answer",
    "context_length": "the prompt is longer than the model's context",
    "failed": "the server failed on this request",
}
"""Outcome -> what it means."""

ADVICE = {
    CUT: "raise answer_tokens, or reasoning_tokens if the model reasons before it answers",
    REFUSED: "use another model",
    EMPTY: "set reasoning_tokens if the model reasons before it answers, or use another model",
    UNREADABLE: "use another model, or one that follows instructions better",
    "content_filter": "use a server without such a filter",
    "context_length": "use a model with a longer context, or show it less",
    "failed": "check the server's log",
}
"""Outcome -> what to change where it is the most frequent one."""


@dataclass(frozen=True)
class Reading(Generic[Value]):
    """One answer.

    Attributes:
        outcome: one of :data:`OUTCOMES`.
        value: what was read; None unless the outcome is ``read``.
        said: what the model wrote, or why there is nothing.
    """

    outcome: str
    value: Value | None
    said: str
