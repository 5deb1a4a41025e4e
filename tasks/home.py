"""The SAGE home: where artefacts, the Prefect database and the MLflow database lie."""

import os
from pathlib import Path

from sage_core.storage import ArtifactStore


def sage_home() -> Path:
    """``SAGE_HOME``, by default ``.sage`` in the working directory; absolute."""
    return Path(os.environ.get("SAGE_HOME", ".sage")).resolve()


def store() -> ArtifactStore:
    """The artefact store of the home."""
    return ArtifactStore(sage_home() / "artifacts")
