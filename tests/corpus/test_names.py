"""Names that are used more than once, found among more than memory holds."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sage_core.corpus.names import repeated
from sage_core.corpus.records import DIALOGUES, REJECTED
from sage_core.errors import ConfigError
from sage_core.schema import Rejection

NAMES = 400_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A filtered partition of many dialogues, two of whose names are used twice."""
    folder = tmp_path_factory.mktemp("filtered")
    names = [f"{number % 37:x}t{number:x}/{number * 7919:x}c{number:x}" for number in range(NAMES)]
    for table, rows in ((DIALOGUES, [*names, "0", "1#2"]), (REJECTED, ["0", "1", "2#2", "2#x"])):
        pq.write_table(pa.table({"dialogue_id": rows}), folder / table, row_group_size=50_000)
    return folder


def test_names_spill_to_disk(folder: Path, tmp_path: Path) -> None:
    names = repeated([folder], tmp_path / "spill", memory_mb=40)
    rows = [Rejection(name, "words") for name in ("0", "0", "1", "1", "1#2", "2#2", "2#2")]
    found = [names.of(row).dialogue_id for row in rows]
    assert found == ["0", "0#2", "1", "1#2", "1#2#2", "2#2", "2#2"]
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_is_one_message(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"corpus\.sort_memory_mb = 8 is too little; raise it"):
        repeated([folder], tmp_path / "spill", memory_mb=8)
