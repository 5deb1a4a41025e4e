"""Build a corpus: read every source, filter its partitions side by side, merge.

``kept + dropped + quarantined == read`` at every step; every dropped dialogue has its reason in
``rejected.parquet``, and bad records are sampled into ``quarantine.jsonl``. The output does not
depend on how many processes share the work. Memory holds a partition's current rows only.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from multiprocessing import get_context
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus import card, readers, threads
from sage_core.corpus.duplicates import Duplicates
from sage_core.corpus.filters import Filter, across, filters, longest_run
from sage_core.corpus.ingest import (
    COUNTS,
    RECORDS,
    Partition,
    Quarantine,
    check_share,
    counted,
    ingest,
    plan,
    sort_posts,
)
from sage_core.corpus.records import DIALOGUES, FUNNEL, REJECTED, FunnelStep
from sage_core.corpus.tables import (
    RowWriter,
    concatenate,
    rare_collections,
    read_dialogues,
    read_posts,
)
from sage_core.errors import DataError
from sage_core.schema import ARROW_SCHEMAS, Dialogue, Part, Rejection, whole_exchanges
from sage_core.storage import read_json, write_json

SPAN_STEP = "span"


def build(config: CorpusConfig, output: Path, processes: int = 1) -> list[FunnelStep]:
    """The whole corpus on this machine; fills ``output`` and returns its funnel.

    Raises:
        ConfigError: a wrong rule, or a reader without its input.
        DataError: the input is missing, or too many of its records are bad.
    """
    filters(config)
    output.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output, prefix=".building-") as scratch, _map(processes) as run:
        folders = partial(_folders, Path(scratch))
        sources = readers.sources(config)
        ingested = folders("source", len(sources))
        list(run(ingest, sources, [config] * len(sources), ingested))
        check_share(config, *counted(ingested))
        records = [folder / RECORDS for folder in ingested]
        if readers.yields_posts(config):
            records = [Path(scratch) / RECORDS]
            sort_posts(ingested, records[0], config.sort_memory_mb)
        partitions = plan(ingested, config)
        filtered = folders("partition", len(partitions))
        inputs = [records[partition.source] for partition in partitions]
        list(run(filter_partition, inputs, partitions, [config] * len(partitions), filtered))
        (merged,) = folders("merged", 1)
        merge(ingested, filtered, config, merged)
        for path in merged.iterdir():
            path.replace(output / path.name)
    return load_funnel(output)


def filter_partition(
    records: Path,
    partition: Partition,
    config: CorpusConfig,
    folder: Path,
    on_progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Apply the span and the rules that look at one dialogue to one partition."""
    rules = filters(config)
    posts = threads.PostCounts()
    read = 0
    dropped: Counter[str] = Counter()
    with (
        rare_collections(),
        RowWriter(folder / DIALOGUES, Dialogue) as kept,
        RowWriter(folder / REJECTED, Rejection) as rejected,
    ):
        for dialogue in _dialogues(records, partition, config, posts):
            read += 1
            outcome = (
                screen(dialogue, rules, config) if isinstance(dialogue, Dialogue) else dialogue
            )
            if isinstance(outcome, Rejection):
                dropped[outcome.reason] += 1
                rejected.write(outcome)
            else:
                kept.write(outcome)
            on_progress(1)
    quarantine = Quarantine()
    quarantine.add(posts.bad)
    quarantine.save(folder)
    write_json(
        folder / COUNTS,
        {
            "read": read,
            "dropped": dict(dropped),
            "posts": {"used": posts.used, **posts.dropped},
            "quarantined": dict(quarantine.reasons),
        },
    )


def screen(
    dialogue: Dialogue, rules: Sequence[Filter], config: CorpusConfig
) -> Dialogue | Rejection:
    """The dialogue, cut to its span and with its split, or the first rule that drops it."""
    candidate: Dialogue | None = dialogue
    if config.span == "longest_run":
        candidate = longest_run(dialogue, config.min_sentiment, config.min_turns)
    if candidate is None:
        return Rejection(dialogue.dialogue_id, SPAN_STEP)
    for rule in rules:
        if not rule.keeps(candidate):
            return Rejection(dialogue.dialogue_id, rule.name)
    return replace(candidate, split=split_of(candidate.thread_id, config))


def merge(
    ingested: Sequence[Path], filtered: Sequence[Path], config: CorpusConfig, folder: Path
) -> None:
    """Put the partitions together, in order, and apply the rules that look across dialogues.

    Raises:
        DataError: too many records turned out bad.
    """
    records, quarantine = counted(ingested)
    _, cycles = counted(filtered)
    quarantine.reasons.update(cycles.reasons)
    quarantine.samples += cycles.samples
    check_share(config, records, quarantine)
    dropped: Counter[str] = Counter()
    posts: Counter[str] = Counter()
    read = 0
    for part in filtered:
        counts = read_json(part / COUNTS)
        read += counts["read"]
        dropped.update(counts["dropped"])
        posts.update(counts["posts"])
    if across(config):
        dropped.update(_without_duplicates(filtered, config, folder))
    else:
        for name, row_type in ((DIALOGUES, Dialogue), (REJECTED, Rejection)):
            concatenate([part / name for part in filtered], folder / name, ARROW_SCHEMAS[row_type])
    quarantined = quarantine.reasons.total()
    taken = dict(posts) if readers.yields_posts(config) else {"used": read}
    first = FunnelStep(
        step="read",
        kept=read,
        dropped=0,
        quarantined=quarantined,
        records={"read": records, **taken, "quarantined": quarantined},
    )
    funnel = [first]
    for step in _steps(config):
        read -= dropped[step]
        funnel.append(FunnelStep(step=step, kept=read, dropped=dropped[step]))
    write_json(folder / FUNNEL, funnel)
    quarantine.save(folder)
    card.write(folder, config, funnel, dict(quarantine.reasons))


def load_funnel(folder: Path) -> list[FunnelStep]:
    """The funnel of a corpus."""
    funnel: list[FunnelStep] = read_json(folder / FUNNEL)
    return funnel


def split_of(thread_id: str, config: CorpusConfig) -> Part:
    """The split of a thread, drawn by a hash of its name."""
    number = int.from_bytes(blake2b(thread_id.encode(), digest_size=8).digest(), "big") / 2**64
    if number < config.test_share:
        return "test"
    return "validation" if number < config.test_share + config.validation_share else "train"


def training_dialogues(corpus: Path, config: CorpusConfig, seed: int) -> list[Dialogue]:
    """The kept dialogues of the training split that training uses: a random sample, cut to whole
    exchanges.

    A dialogue ends on an assistant turn, since a last user turn carries no loss; it may open with
    one, which counts towards ``max_turns``.

    Raises:
        DataError: no dialogue is left.
    """
    table = pq.read_table(corpus / DIALOGUES, columns=["dialogue_id", "split"]).to_pylist()
    drawn = sorted(row["dialogue_id"] for row in table if row["split"] == "train")
    if config.max_dialogues and len(drawn) > config.max_dialogues:
        drawn = Random(seed).sample(drawn, config.max_dialogues)
    rank = {dialogue_id: number for number, dialogue_id in enumerate(drawn)}
    kept = [row for row in read_dialogues(corpus / DIALOGUES) if row.dialogue_id in rank]
    cut = []
    for dialogue in sorted(kept, key=lambda dialogue: rank[dialogue.dialogue_id]):
        if messages := whole_exchanges(dialogue.messages, config.max_turns):
            cut.append(replace(dialogue, messages=messages))
    if not cut:
        counts = ", ".join(f"{step['step']}: {step['kept']}" for step in load_funnel(corpus))
        raise DataError(
            f"no dialogue is left after the filters (kept after each step: {counts}); loosen "
            "corpus.min_turns, corpus.min_mean_words or corpus.min_sentiment, set "
            "corpus.span=longest_run, or give more input"
        )
    return cut


def _dialogues(
    records: Path, partition: Partition, config: CorpusConfig, posts: threads.PostCounts
) -> Iterator[Dialogue | Rejection]:
    numbers = range(partition.first, partition.stop)
    if readers.yields_posts(config):
        return threads.dialogues(read_posts(records, numbers), config.threads, posts)
    return read_dialogues(records, numbers)


def _without_duplicates(
    filtered: Iterable[Path], config: CorpusConfig, folder: Path
) -> Counter[str]:
    """Merge and drop duplicates; how many by each rule."""
    dropped: Counter[str] = Counter()
    duplicates = Duplicates(config)
    with (
        RowWriter(folder / DIALOGUES, Dialogue) as kept,
        RowWriter(folder / REJECTED, Rejection) as rejected,
    ):
        for part in filtered:
            for row in pq.read_table(part / REJECTED).to_pylist():
                rejected.write(Rejection(**row))
            for dialogue in read_dialogues(part / DIALOGUES):
                reason = duplicates.reason(dialogue)
                if reason is None:
                    kept.write(dialogue)
                else:
                    dropped[reason] += 1
                    rejected.write(Rejection(dialogue.dialogue_id, reason))
    return dropped


def _steps(config: CorpusConfig) -> list[str]:
    names = threads.steps(config.threads) if readers.yields_posts(config) else []
    names += [SPAN_STEP] if config.span == "longest_run" else []
    return [*names, *(rule.name for rule in filters(config)), *across(config)]


def _folders(root: Path, name: str, count: int) -> list[Path]:
    folders = [root / f"{name}-{number}" for number in range(count)]
    for folder in folders:
        folder.mkdir()
    return folders


@contextmanager
def _map(processes: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """``map`` over a pool of processes, where there is more than one and more than one call."""
    # Forked processes would inherit the threads of pyarrow and DuckDB.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:

        def run(function: Callable[..., Any], *columns: Sequence[Any]) -> Iterable[Any]:
            alone = processes == 1 or len(columns[0]) == 1
            return map(function, *columns) if alone else pool.map(function, *columns)

        yield run
