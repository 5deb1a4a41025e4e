"""The errors that SAGE raises on purpose.

Every message names the wrong value, the valid choices and the fix, so that the command line can
print it unchanged and exit with code 2.
"""


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


class ContextError(EngineError):
    """A prompt and its reply are longer than the model's context."""


class ArtifactError(SageError):
    """An artefact is missing, damaged or could not be written."""


class StateFormatError(SageError):
    """A state value cannot be written in the State-Action Chain text format."""
