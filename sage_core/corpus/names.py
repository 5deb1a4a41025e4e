"""Names of dialogues: each is used once, whatever the input calls them.

Files and splits of a data set often count from the same number. The first dialogue of a name keeps
it; later ones are called ``name#2``, ``name#3``, …, in the order of the input.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from sage_core.corpus.out_of_core import database
from sage_core.corpus.records import DIALOGUES, REJECTED
from sage_core.schema import AnnotatedDialogue, Dialogue, Rejection

Row = TypeVar("Row", Dialogue, Rejection, AnnotatedDialogue)


class Names:
    """Gives each dialogue a name of its own.

    ``repeated``: the names to look at, where they are known; others are taken as they are.
    """

    def __init__(self, repeated: Iterable[str] | None = None) -> None:
        self._repeated = None if repeated is None else set(repeated)
        self._taken: set[str] = set()

    def __bool__(self) -> bool:
        """Whether any name may change."""
        return self._repeated is None or bool(self._repeated)

    def of(self, row: Row) -> Row:
        """The row under its own name."""
        name = row.dialogue_id
        if self._repeated is not None and name not in self._repeated:
            return row
        number = 1
        while name in self._taken:
            number += 1
            name = f"{row.dialogue_id}#{number}"
        self._taken.add(name)
        return row if number == 1 else replace(row, dialogue_id=name)


def unique(rows: Iterable[Row]) -> list[Row]:
    """The rows, each under a name of its own."""
    names = Names()
    return [names.of(row) for row in rows]


def repeated(folders: Sequence[Path], spill: Path, memory_mb: int) -> Names:
    """The names of kept and dropped dialogues in ``folders``, of which none is held that is there
    once. A name such as ``name#2`` counts as ``name``, so that no new name is one of the input's.

    Args:
        folders: of filtered partitions.
        spill, memory_mb: as :func:`sage_core.corpus.out_of_core.database` takes them.

    Raises:
        ConfigError: ``memory_mb`` is too little.
    """
    files = [str(folder / name) for folder in folders for name in (DIALOGUES, REJECTED)]
    with database(spill, memory_mb) as connection:
        # Counts are spilled; a list for each name would have to stay in memory.
        rows = connection.execute(
            """
            WITH named AS (
                SELECT dialogue_id, regexp_replace(dialogue_id, '(#[0-9]+)+$', '') AS stem
                FROM read_parquet($files)
            ),
            shared AS (SELECT stem FROM named GROUP BY stem HAVING count(*) > 1)
            SELECT DISTINCT dialogue_id FROM named SEMI JOIN shared USING (stem)
            """,
            {"files": files},
        ).fetchall()
    return Names(name for (name,) in rows)
