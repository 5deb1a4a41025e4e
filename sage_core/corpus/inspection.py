"""A look at an input before anything is built: what is recognised, how the first dialogues would be
read, and what would be lost and why."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus import threads
from sage_core.corpus.build import screen
from sage_core.corpus.filters import filters
from sage_core.corpus.readers import READERS
from sage_core.corpus.readers.reader import Recognised, Source
from sage_core.corpus.records import BadRecord, Post, Record
from sage_core.corpus.sources import read, reader_of, sources
from sage_core.errors import DataError, SageError
from sage_core.schema import Dialogue, Rejection

SHOWN = 3
# More special formats first: of what several readers take, each says something true.
_ORDER = (
    "chatgpt", "claude", "discord", "telegram", "whatsapp", "openassistant", "esconv",
    "empathetic_dialogues", "pushshift", "convokit", "messages", "slack", "hf",
)  # fmt: skip


@dataclass
class Inspection:
    """What was seen of an input.

    Attributes:
        files: how many files the reader takes.
        recognised: what it sees in the first of them; None: its layout is not known.
        read: records that were read, at most the limit: ``dialogues + bad``, or posts and bad ones.
        complete: whether these are all.
        examples: the first dialogues as they are read.
        bad: records that cannot be read, by reason, with the first of each.
        left_out: messages of dialogues that are left out, by their role, or ``blank``.
        dropped: dialogues that the rules of the settings drop, by rule.
        not_applied: dialogues that passed a rule which is not about their language, by rule.
        kept: dialogues that stay.
    """

    reader: str
    files: int
    recognised: Recognised | None
    read: int = 0
    complete: bool = True
    examples: list[Dialogue] = field(default_factory=list)
    bad: dict[str, tuple[int, BadRecord]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    posts_dropped: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    not_applied: dict[str, int] = field(default_factory=dict)
    kept: int = 0


def recognise_reader(path: Path) -> str:
    """The reader of a file or folder, seen from its content.

    Raises:
        DataError: there is none.
    """
    if not path.exists():
        raise DataError(f"'{path}' does not exist; give the path of a file or of a folder")
    for name in _ORDER:
        config = CorpusConfig(reader=name, input=path)
        try:
            if reader_of(config).recognise(sources(config)[0], config):
                return name
        except SageError:  # not of this reader
            continue
    raise DataError(
        f"'{path}' is of no known format{_first_problem(path)}. Name its reader with --reader "
        f"({READERS.choices}), and its fields with --set corpus.columns.messages=NAME and the like"
    )


def _first_problem(path: Path) -> str:
    """Why the reader of the usual layouts does not take a file or folder, in words."""
    config = CorpusConfig(reader="messages", input=path)
    try:
        first = next(read(sources(config)[0], config), None)
    except SageError as error:
        return f": {error}"
    return f"; its first record is {first}" if isinstance(first, BadRecord) else ""


def inspect(config: CorpusConfig, limit: int) -> Inspection:
    """Look at the first ``limit`` records of an input; 0 = all.

    Raises:
        ConfigError, DataError: as :func:`sage_core.corpus.sources.sources`; the input holds no
            record.
    """
    rules = filters(config)
    found = sources(config)
    seen = Inspection(config.reader, len(found), reader_of(config).recognise(found[0], config))
    not_applied: Counter[str] = Counter()
    records = _records(found, config)
    for dialogue in _dialogues(islice(records, limit or None), config, seen):
        outcome: Dialogue | Rejection = dialogue
        if isinstance(dialogue, Dialogue):
            if len(seen.examples) < SHOWN:
                seen.examples.append(dialogue)
            outcome = screen(dialogue, rules, config, not_applied)
        if isinstance(outcome, Rejection):
            seen.dropped[outcome.reason] = seen.dropped.get(outcome.reason, 0) + 1
        else:
            seen.kept += 1
    seen.not_applied = dict(not_applied)
    seen.complete = next(records, None) is None
    if seen.read == 0:
        raise DataError(
            f"'{config.input}' holds no record: it is empty, or holds an empty array; give a file "
            "with conversations"
        )
    return seen


def _records(found: list[Source], config: CorpusConfig) -> Iterator[Record]:
    for source in found:
        yield from read(source, config)


def _dialogues(
    records: Iterator[Record], config: CorpusConfig, seen: Inspection
) -> Iterator[Dialogue | Rejection]:
    """The dialogues of the records; those of posts once all are read."""
    posts = []
    left_out: Counter[str] = Counter()
    for record in records:
        seen.read += 1
        if isinstance(record, BadRecord):
            count, first = seen.bad.get(record.reason, (0, record))
            seen.bad[record.reason] = count + 1, first
        elif isinstance(record, Post):
            posts.append(record)
        else:
            left_out.update(record.left_out)
            yield record
    seen.left_out = dict(sorted(left_out.items()))
    counts = threads.PostCounts()
    posts.sort(key=lambda post: post.thread_id)
    yield from threads.dialogues(posts, config.threads, counts)
    seen.posts_dropped = dict(counts.dropped)
