"""Folders that commands write into."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sage_core.errors import DataError


def check_new(output: Path) -> None:
    """
    Raises:
        DataError: ``output`` holds something, or is no folder.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"'{output}' is not empty; give a new folder")


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """A folder that becomes ``output`` when all has ended well; else nothing is left of it.

    Raises:
        DataError: see :func:`check_new`.
    """
    check_new(output)
    building = output.with_name(f".{output.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        yield building
        building.replace(output)
    finally:
        shutil.rmtree(building, ignore_errors=True)
