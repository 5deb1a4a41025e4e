"""The errors that SAGE raises on purpose.

Every message names the wrong value, the valid choices and the fix, so that the command line can
print it unchanged and exit with code 2.
"""

from collections.abc import Mapping
from typing import Any


class SageError(Exception):
    """Root of all errors caused by input, configuration or the machine rather than by a bug."""


class ConfigError(SageError):
    """A preset, a ``--set`` or a form field has a wrong key or value."""


class DataError(SageError):
    """An input file, or the input of a stage, cannot be used."""


class EngineError(SageError):
    """A model cannot be loaded or reached, or cannot do what a request asks for.

    Attributes:
        status: the HTTP status of a server that refused the request; 0: none did.
        said: what it said of the request.
    """

    status = 0
    said = ""


class ItemError(EngineError):
    """A request failed for a reason of its own, so that others may well be answered.

    Attributes:
        outcome: what became of it, one of :data:`sage_core.answers.outcomes.OUTCOMES`.
        failed: of a call with several requests, the error of each that failed, by its place.
        answers: of such a call, the answers of the others, by their place. Both are empty where
            the engine does not say which of the requests was at fault.
    """

    outcome = "failed"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.failed: Mapping[int, ItemError] = {}
        self.answers: Mapping[int, Any] = {}


class ContextError(ItemError):
    """A prompt and its reply are longer than the model's context."""

    outcome = "context_length"


class FilteredError(ItemError):
    """A server's content filter refused the request."""

    outcome = "content_filter"


class CutError(ItemError):
    """A server gives an error in place of an answer that reached its token limit."""

    outcome = "cut"


class AnswersError(SageError):
    """Too many of a model's answers in a stage cannot be used."""


class ArtifactError(SageError):
    """An artefact is missing, damaged or could not be written."""


class StateFormatError(SageError):
    """A state value cannot be written in the State-Action Chain text format."""
