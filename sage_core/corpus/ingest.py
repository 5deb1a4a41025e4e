"""The first half of a corpus: every source is read once, into Parquet cut into partitions.

Dialogues stay in the order of their source. Posts of reply trees are sorted by thread, out of
core, so that a partition holds whole threads; their bucket is a hash of the thread.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.out_of_core import database
from sage_core.corpus.readers.reader import Source
from sage_core.corpus.records import BadRecord, Post, Record
from sage_core.corpus.sources import reader_of
from sage_core.corpus.tables import (
    ROW_GROUP,
    RowWriter,
    holds_posts,
    rare_collections,
    row_groups_in,
    rows_in,
)
from sage_core.errors import DataError
from sage_core.schema import Dialogue
from sage_core.storage import canonical_json, read_json, write_json

RECORDS = "records.parquet"
COUNTS = "counts.json"
QUARANTINE = "quarantine.jsonl"
BUCKETS = 4096
_SAMPLES = 20  # bad records kept of each reason
# Reasons of records that are read, and hold nothing of use.
OF_NO_USE = ("no_turns", "no_agent", "no_text", "no_parent")
_EARLY = 100_000  # records after which a run with too many bad ones stops at once


@dataclass(frozen=True)
class Partition:
    """A part that is filtered by itself: the row groups [first, stop) of the records of source
    number ``source``, or, of sorted posts, the buckets [first, stop)."""

    source: int
    first: int
    stop: int


class Quarantine:
    """Counts bad records by reason and keeps a sample of each."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.samples: list[BadRecord] = []

    def add(self, records: Iterable[BadRecord]) -> None:
        for record in records:
            self.reasons[record.reason] += 1
            if self.reasons[record.reason] <= _SAMPLES:
                self.samples.append(record)

    def save(self, folder: Path) -> None:
        """Write the samples as JSON lines."""
        lines = [canonical_json(asdict(sample)) + "\n" for sample in self.samples]
        (folder / QUARANTINE).write_text("".join(lines), encoding="utf-8")


def ingest(source: Source, config: CorpusConfig, folder: Path) -> None:
    """Read one source into ``records.parquet``, ``counts.json`` and ``quarantine.jsonl``.

    Raises:
        DataError: far too many records are bad; see :func:`check_share`.
    """
    quarantine = Quarantine()
    left_out: Counter[str] = Counter()
    read = 0
    reader = reader_of(config)
    row_type = Post if reader.posts else Dialogue
    records: Iterable[Record] = reader.read(source, config)
    with rare_collections(), RowWriter(folder / RECORDS, row_type) as writer:
        for record in islice(records, config.max_read or None):
            read += 1
            if isinstance(record, BadRecord):
                quarantine.add([record])
            elif isinstance(record, Post):
                writer.write((crc32(record.thread_id.encode()) % BUCKETS, record))
            else:
                writer.write(record)
                if record.left_out:
                    left_out.update(record.left_out)
            if read == _EARLY:
                check_share(config, read, quarantine)
    quarantine.save(folder)
    counts = {
        "read": read,
        "quarantined": dict(quarantine.reasons),
        "left_out": dict(left_out),
        "source": source.name,
    }
    if recognised := reader.recognise(source, config):
        counts["recognised"] = asdict(recognised)
    write_json(folder / COUNTS, counts)


def check_share(config: CorpusConfig, read: int, quarantine: Quarantine) -> None:
    """Stop where nothing was read, or the share of bad records is over the limit.

    Records that can be read but hold nothing of use do not count, unless all are such.

    Raises:
        DataError: it is; the message counts them by reason and shows one.
    """
    if read == 0:
        raise DataError(
            f"corpus.input = '{config.input}' holds no record: its files are empty, or hold an "
            "empty array; give a file with conversations"
        )
    bad = quarantine.reasons.total()
    unreadable = bad - sum(quarantine.reasons[reason] for reason in OF_NO_USE)
    if unreadable <= config.max_bad_share * read and (bad < read or config.max_bad_share == 1):
        return
    found = Counter(
        {r: n for r, n in quarantine.reasons.items() if unreadable == 0 or r not in OF_NO_USE}
    )
    reasons = ", ".join(f"{reason}: {count}" for reason, count in found.most_common())
    sample = next(each for each in quarantine.samples if each.reason in found)
    raise DataError(
        f"{found.total()} of {read} records of '{config.input}' cannot be read ({reasons}), more "
        f"than corpus.max_bad_share = {config.max_bad_share:g}; the first is {sample}. "
        f"Check corpus.reader, now '{config.reader}', corpus.columns and corpus.roles "
        "(`sage corpus inspect` shows what was recognised), fix the input, or raise the limit"
    )


def counted(folders: Sequence[Path]) -> tuple[int, Quarantine]:
    """How many records were read into ``folders``, and the bad ones among them."""
    quarantine = Quarantine()
    read = 0
    for folder in folders:
        counts = read_json(folder / COUNTS)
        read += counts["read"]
        quarantine.reasons.update(counts["quarantined"])
        quarantine.samples += load_quarantine(folder)
    return read, quarantine


@dataclass(frozen=True)
class Seen:
    """What was seen in the sources of a corpus beside its records.

    Attributes:
        recognised: what was recognised, each with the number of its ``files``.
        empty: the names of files without a record.
        left_out: messages of dialogues that are left out, by their role, or ``blank``.
    """

    recognised: list[dict[str, Any]]
    empty: list[str]
    left_out: dict[str, int]


def seen(folders: Sequence[Path]) -> Seen:
    """What was seen in the sources that were read into ``folders``."""
    found: dict[str, dict[str, Any]] = {}
    empty = []
    left_out: Counter[str] = Counter()
    for folder in folders:
        counts = read_json(folder / COUNTS)
        left_out.update(counts["left_out"])
        if counts["read"] == 0:
            empty.append(counts["source"])
        if recognised := counts.get("recognised"):
            entry = found.setdefault(canonical_json(recognised), {**recognised, "files": 0})
            entry["files"] += 1
    return Seen(list(found.values()), empty, dict(sorted(left_out.items())))


def load_quarantine(folder: Path) -> list[BadRecord]:
    """The samples that :meth:`Quarantine.save` wrote."""
    import json

    # Not splitlines(): JSON writes its other ends of lines, such as U+2028, as they are.
    with (folder / QUARANTINE).open(encoding="utf-8", newline="\n") as lines:
        return [BadRecord(**json.loads(line)) for line in lines]


def sort_posts(ingested: Sequence[Path], target: Path, memory_mb: int) -> None:
    """The posts of all sources in one file, sorted by bucket and thread; spills to disk beside it.

    Raises:
        ConfigError: ``memory_mb`` does not hold the index of what was spilled; 150 MB are enough
            for 8 million posts.
    """
    with database(target.with_name("spill"), memory_mb) as connection:
        posts = connection.read_parquet([str(folder / RECORDS) for folder in ingested])
        posts.order("bucket, thread_id, post_id, created, author").write_parquet(
            str(target), compression="zstd", row_group_size=4 * ROW_GROUP
        )


def plan(ingested: Sequence[Path], config: CorpusConfig) -> list[Partition]:
    """The partitions of the ingested sources, at least one."""
    rows = [rows_in(folder / RECORDS) for folder in ingested]
    if any(holds_posts(folder / RECORDS) for folder in ingested):
        count = min(BUCKETS, -(-sum(rows) // config.records_per_partition) or 1)
        edges = [BUCKETS * number // count for number in range(count + 1)]
        return [Partition(0, *edge) for edge in pairwise(edges)]
    step = max(1, config.records_per_partition // ROW_GROUP)
    partitions = [
        Partition(number, first, min(first + step, groups))
        for number, groups in enumerate(row_groups_in(folder / RECORDS) for folder in ingested)
        for first in range(0, groups, step)
    ]
    return partitions or [Partition(0, 0, 0)]
