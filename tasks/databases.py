"""The SQLite databases of a home, looked at without a server: what a migration that was cut short,
or two at once, leave behind."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sage_core.errors import ArtifactError

_LEFTOVER = "_alembic_tmp_"  # alembic's copy of a table that it changes; gone when it has finished


def fault(path: Path) -> str | None:
    """What is wrong with the database ``path``, or None. It has to be there.

    It is opened for writing too: else SQLite could not undo what a process that was killed had
    half written, which every program that opens it does.
    """
    try:
        with closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=20)
        ) as database:
            tables = [
                name
                for (name,) in database.execute("select name from sqlite_master where type='table'")
            ]
            ((verdict,), *_) = database.execute("pragma quick_check(1)")
    except sqlite3.Error as error:
        return f"cannot be read: {error}"
    leftover = sorted(name for name in tables if name.startswith(_LEFTOVER))
    if leftover:
        return f"a migration of it was not finished (it has the table {leftover[0]})"
    if "alembic_version" not in tables:
        return "it has no tables of its application"
    return None if verdict == "ok" else f"it is damaged: {verdict}"


def check(path: Path) -> None:
    """
    Raises:
        ArtifactError: the database ``path`` is there, and cannot be used.
    """
    if path.exists() and (found := fault(path)):
        raise ArtifactError(f"the database '{path}' cannot be used: {found}; {fix(path)}")


def fix(path: Path) -> str:
    """What to do about a faulty database."""
    return (
        f"end all that uses it, then: mv '{path}' '{path}.broken'. The next run makes a new one; "
        "artefacts stay, so no finished stage is done again"
    )
