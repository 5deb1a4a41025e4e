"""Failures of a server: of one request, so that the others go on, or of all."""

import re
from typing import Any, Final, Literal

from sage_core.errors import ContextError, CutError, EngineError, FilteredError, ItemError

_TOO_LONG = re.compile(
    r"context[ _](?:length|size|window)|longer than the maximum model length", re.I
)
_CUT_SHORT = re.compile(r"could not finish the message|output limit was reached", re.I)  # OpenAI
_FILTERED = re.compile(
    r"content[ _-]?(?:filter|management|policy|exists risk)|responsible ?ai|data_inspection_failed"
    r"|prohibited[ _]content|usage polic|moderation|\bflagged\b|\bunsafe\b",
    re.I,
)
_OF_ALL: Final = (401, 402, 403, 404, 405, 429)  # keys, prices, addresses and limits
_REFUSED = ("content_filter", "safety", "refusal", "sensitive", "prohibited_content", "recitation")
_CUT = ("length", "max_tokens", "model_length")


def kind_of(status: int, said: str) -> type[EngineError]:
    """The error for an answer with an HTTP status other than 2xx, and what the server said."""
    if status < 500 and _TOO_LONG.search(said):
        return ContextError
    if status < 500 and _FILTERED.search(said):
        return FilteredError
    if status < 500 and _CUT_SHORT.search(said):
        return CutError
    return EngineError if status in _OF_ALL else ItemError


def finish_of(choice: Any) -> Literal["stop", "length", "refused"]:
    """How a choice ended, under the names that servers have for it."""
    said = str(choice.finish_reason).casefold()
    if said in _REFUSED or getattr(getattr(choice, "message", None), "refusal", None):
        return "refused"
    return "length" if said in _CUT else "stop"
