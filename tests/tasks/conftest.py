"""What tests of MLflow share."""

from pathlib import Path

import pytest

from tasks import tracking_store
from tasks.home import held


@pytest.fixture(scope="session")
def made_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database as the first run of a home makes it."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("SAGE_HOME", str(folder))
        with held():
            tracking_store.prepare_database()
    return folder / "mlflow.db"
