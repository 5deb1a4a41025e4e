"""The errors that SAGE raises on purpose.

Every message names the value that is wrong, the valid choices and the mend, so that the
command line can print it as it stands and exit with code 2.
"""


class SageError(Exception):
    """Root of all errors caused by input, configuration or the machine rather than by a bug."""


class ConfigError(SageError):
    """A preset, a ``--set`` or a form field holds a wrong key or value."""


class DataError(SageError):
    """An input file, or what a stage was handed, cannot be used."""


class EngineError(SageError):
    """A model cannot be loaded or reached, or cannot do what was asked of it."""


class ContextError(EngineError):
    """A prompt and its reply are longer than the model's context."""


class ArtifactError(SageError):
    """An artefact is missing, damaged or could not be written."""


class StateFormatError(SageError):
    """A state value cannot be written in the State-Action Chain text format."""
