"""Failures of a server: of one request, so that the others go on, or of all."""

import re
from typing import Final, Literal

from sage_core.engines.answer_body import Choice
from sage_core.engines.refusals import is_cut_short, is_too_long
from sage_core.errors import ContextError, CutError, EngineError, FilteredError, ItemError

_FILTERED = re.compile(
    r"content[ _-]?(?:filter|management|policy|exists risk)|responsible ?ai|data_inspection_failed"
    r"|prohibited[ _]content|usage polic|moderation|\bflagged\b|\bunsafe\b",
    re.I,
)
_OF_ALL: Final = (401, 402, 403, 404, 405, 429)  # keys, prices, addresses and limits
_REFUSED = ("content_filter", "safety", "refusal", "sensitive", "prohibited_content", "recitation")
_CUT = ("length", "max_tokens", "model_length")


def kind_of(status: int, about: str, body: str) -> type[EngineError]:
    """The error for an answer with an HTTP status other than 2xx: ``about`` is what it says of the
    request, ``body`` the whole."""
    if is_too_long(status, about):
        return ContextError
    if status < 500 and _FILTERED.search(body):
        return FilteredError
    if is_cut_short(about):
        return CutError
    return EngineError if status in _OF_ALL else ItemError


def finish_of(choice: Choice) -> Literal["stop", "length", "refused"]:
    """How a choice ended, under the names that servers have for it."""
    said = choice.finish_reason.casefold()
    if said in _REFUSED or choice.refusal:
        return "refused"
    return "length" if said in _CUT else "stop"
