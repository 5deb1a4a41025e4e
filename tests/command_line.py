"""``sage`` in this process, for tests of what it says: starting Python and importing PyTorch takes
longer than most commands. A test of what a process leaves behind starts one."""

import os
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from unittest.mock import patch

from flows import cli


@dataclass(frozen=True)
class Done:
    """How a command ended and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def sage(*arguments: str, home: Path, **environment: str) -> Done:
    """Run the command line over ``home``. Prefect and MLflow are not pointed to it, since they
    read the environment once, when they are imported.

    Raises:
        Exception: what would be a traceback in a process.
    """
    out, errors = StringIO(), StringIO()
    variables = {"SAGE_HOME": str(home), "COLUMNS": "200", **environment}
    with (
        patch.dict(os.environ, variables),
        patch("sys.argv", ["sage", *arguments]),
        patch("flows.environment.prepare"),
        redirect_stdout(out),
        redirect_stderr(errors),
    ):
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return Done(code, out.getvalue(), errors.getvalue())
