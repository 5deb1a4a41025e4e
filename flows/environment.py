"""The process environment that Prefect and MLflow read before they are imported."""

import json
import logging
import os
import warnings
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tasks import databases
from tasks.home import sage_home

_EPHEMERAL_SERVER = "prefect.server.api.server:create_app"
UI_FILE = "ui.json"  # written by `sage ui`: the addresses of the servers it runs


def quieten() -> None:
    """Keep the bars, notes and deprecations of our libraries out of what the reader sees; call it
    before they are imported. Stages have bars of their own."""
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
    }.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("default", module=r"(flows|tasks|sage_core)\b")  # ours are shown


def prepare(*, quiet: bool) -> None:
    """Point Prefect and MLflow to the SAGE home, unless the environment already says otherwise.

    A server that `sage ui` runs over the same home is used, since two servers on one SQLite file
    would lock each other out; else Prefect starts one for the run.
    """
    home = sage_home()
    home.mkdir(parents=True, exist_ok=True)
    defaults = {
        "SAGE_HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
            "prefect.server.concurrency.lease_storage.filesystem"
        ),
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # Prefect's own default is pickle
        "PREFECT_LOGGING_EXTRA_LOGGERS": "sage_core",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # where --json is printed
        "DO_NOT_TRACK": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if quiet:
        # Errors are shown by the command line. The log in Prefect's UI keeps its level.
        defaults["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
        defaults["MLFLOW_LOGGING_LEVEL"] = "WARNING"
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("mlflow.store.db").setLevel(logging.CRITICAL)  # it raises what it logs
        logging.getLogger("alembic").setLevel(logging.WARNING)
        warned = logging.StreamHandler()
        warned.setLevel(logging.WARNING)
        logging.getLogger("sage_core").addHandler(warned)
    if "PREFECT_API_URL" not in os.environ and (api := running_server(home)):
        defaults["PREFECT_API_URL"] = api
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


def prefect_database() -> Path:
    """The SQLite file of a Prefect server over this home, which the server makes."""
    return Path(os.environ["PREFECT_HOME"]) / "prefect.db"


def check_prefect_database() -> None:
    """
    Raises:
        ArtifactError: the database of the Prefect server is there, and cannot be used.
    """
    databases.check(prefect_database())


def stop_orphaned_servers() -> None:
    """End the Prefect servers that runs over this home started and that a `kill -9` orphaned."""
    import psutil

    prefect_home = os.environ["PREFECT_HOME"]
    for process in psutil.process_iter():
        try:
            orphaned = process.ppid() == 1 and _EPHEMERAL_SERVER in process.cmdline()
            if orphaned and process.environ().get("PREFECT_HOME") == prefect_home:
                process.terminate()
        except psutil.Error:
            continue


def running_server(home: Path) -> str | None:
    """The API address of the Prefect server that `sage ui` runs over this home, if it answers.

    A `sage ui` that was killed leaves its record behind, and another home's server may answer at
    that address by now: the process that was recorded has to run.
    """
    import psutil

    try:
        record = json.loads((home / UI_FILE).read_text())
        api = str(record["prefect_api"])
        if psutil.Process(record["pid"]).create_time() != record["created"]:
            return None
        with urlopen(f"{api}/health", timeout=2):  # noqa: S310 - an address that `sage ui` wrote
            return api
    except (OSError, ValueError, KeyError, URLError, psutil.Error):
        return None
