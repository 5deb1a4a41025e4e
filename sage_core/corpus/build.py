"""The second half of a corpus: its partitions are filtered, each by itself, and merged.

``kept + dropped + quarantined == read`` at every step; every dropped dialogue has its reason in
``rejected.parquet``, and bad records are sampled into ``quarantine.jsonl``. Memory holds a
partition's current rows only.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from random import Random

import pyarrow.parquet as pq

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus import card, threads
from sage_core.corpus.duplicates import Duplicates
from sage_core.corpus.filters import Filter, across, alone, filters, in_english
from sage_core.corpus.ingest import (
    COUNTS,
    RECORDS,
    Partition,
    Quarantine,
    check_share,
    counted,
    seen,
)
from sage_core.corpus.names import Names, repeated
from sage_core.corpus.records import DIALOGUES, FUNNEL, REJECTED, FunnelStep
from sage_core.corpus.span import longest_run
from sage_core.corpus.tables import (
    RowWriter,
    concatenate,
    holds_posts,
    rare_collections,
    read_dialogues,
    read_posts,
)
from sage_core.errors import DataError
from sage_core.schema import ARROW_SCHEMAS, Dialogue, Part, Rejection, whole_exchanges
from sage_core.storage import read_json, write_json

SPAN_STEP = "span"


def filter_partition(
    records: Path,
    partition: Partition,
    config: CorpusConfig,
    folder: Path,
    on_progress: Callable[[int], None],
) -> None:
    """Apply the span and the rules that look at one dialogue to one partition."""
    rules = filters(config)
    posts = threads.PostCounts()
    read = 0
    dropped: Counter[str] = Counter()
    not_applied: Counter[str] = Counter()
    with (
        rare_collections(),
        RowWriter(folder / DIALOGUES, Dialogue) as kept,
        RowWriter(folder / REJECTED, Rejection) as rejected,
    ):
        for dialogue in _dialogues(records, partition, config, posts):
            read += 1
            outcome = (
                screen(dialogue, rules, config, not_applied)
                if isinstance(dialogue, Dialogue)
                else dialogue
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
            "not_applied": dict(not_applied),
            "posts": {"used": posts.used, **posts.dropped},
            "quarantined": dict(quarantine.reasons),
        },
    )


def screen(
    dialogue: Dialogue,
    rules: Sequence[Filter],
    config: CorpusConfig,
    not_applied: Counter[str],
) -> Dialogue | Rejection:
    """The dialogue, cut to its span and with its split, or the first rule that drops it;
    ``not_applied`` counts the rules that are not about its language."""
    candidate: Dialogue | None = dialogue
    if config.span == "longest_run":
        english = in_english(config)
        if english is None or english(dialogue):
            candidate = longest_run(dialogue, config.min_sentiment, config.min_turns)
        else:
            not_applied[SPAN_STEP] += 1
    if candidate is None:
        return Rejection(dialogue.dialogue_id, SPAN_STEP)
    for rule in rules:
        if not rule.keeps(candidate):
            return Rejection(dialogue.dialogue_id, rule.name)
        if rule.applies and not rule.applies(candidate):
            not_applied[rule.name] += 1
    return replace(candidate, split=split_of(candidate.thread_id, config))


def merge(
    ingested: Sequence[Path],
    filtered: Sequence[Path],
    config: CorpusConfig,
    folder: Path,
    own: Mapping[str, str],
) -> None:
    """Put the partitions together, in order, and apply the rules that look across dialogues.

    ``own``: the user's own rules and reader, with the hashes of their code, for the data card.

    Raises:
        DataError: too many records turned out bad.
    """
    records, quarantine = counted(ingested)
    _, cycles = counted(filtered)
    quarantine.reasons.update(cycles.reasons)
    quarantine.samples += cycles.samples
    check_share(config, records, quarantine)
    dropped: Counter[str] = Counter()
    not_applied: Counter[str] = Counter()
    posts: Counter[str] = Counter()
    read = 0
    for part in filtered:
        counts = read_json(part / COUNTS)
        read += counts["read"]
        dropped.update(counts["dropped"])
        not_applied.update(counts["not_applied"])
        posts.update(counts["posts"])
    names = repeated(filtered, folder / "spill", config.sort_memory_mb)
    if across(config) or names:
        dropped.update(_without_duplicates(filtered, config, folder, names))
    else:
        for name, row_type in ((DIALOGUES, Dialogue), (REJECTED, Rejection)):
            concatenate([part / name for part in filtered], folder / name, ARROW_SCHEMAS[row_type])
    quarantined = quarantine.reasons.total()
    has_posts = holds_posts(ingested[0] / RECORDS)
    taken = dict(posts) if has_posts else {"used": read}
    first = FunnelStep(
        step="read",
        kept=read,
        dropped=0,
        quarantined=quarantined,
        records={"read": records, **taken, "quarantined": quarantined},
    )
    inputs = seen(ingested)
    if inputs.empty:
        first["empty"] = inputs.empty
    if inputs.left_out:
        first["left_out"] = inputs.left_out
    funnel = [first]
    for step in _steps(config, has_posts=has_posts):
        read -= dropped[step]
        funnel.append(FunnelStep(step=step, kept=read, dropped=dropped[step]))
        if not_applied[step]:
            funnel[-1]["not_applied"] = not_applied[step]
    write_json(folder / FUNNEL, funnel)
    quarantine.save(folder)
    card.write(folder, config, funnel, dict(quarantine.reasons), own, inputs.recognised)


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
    """The kept dialogues of the training split that training uses (:func:`drawn_dialogues`).

    Raises:
        DataError: no dialogue is left.
    """
    table = pq.read_table(corpus / DIALOGUES, columns=["dialogue_id", "split"]).to_pylist()
    training = {
        place: row["dialogue_id"] for place, row in enumerate(table) if row["split"] == "train"
    }
    cut = drawn_dialogues(corpus, training, config, seed)
    if not cut:
        counts = ", ".join(f"{step['step']}: {step['kept']}" for step in load_funnel(corpus))
        raise DataError(
            f"no dialogue is left after the filters (kept after each step: {counts}); loosen "
            "corpus.min_turns, corpus.min_mean_words or corpus.min_sentiment, set "
            "corpus.span=longest_run, or give more input"
        )
    return cut


def drawn_dialogues(
    corpus: Path, places: Mapping[int, str], config: CorpusConfig, seed: int
) -> list[Dialogue]:
    """A random sample of dialogues, cut to whole exchanges; ``places`` has the row of each in the
    table, with its id.

    A dialogue ends on an assistant turn, since a last user turn carries no loss; it may open with
    one, which counts towards ``max_turns``.
    """
    drawn = sorted(places, key=lambda place: (places[place], place))
    if config.max_dialogues and len(drawn) > config.max_dialogues:
        drawn = Random(seed).sample(drawn, config.max_dialogues)
    rank = {place: number for number, place in enumerate(drawn)}
    rows = enumerate(read_dialogues(corpus / DIALOGUES))
    kept = sorted((rank[place], row) for place, row in rows if place in rank)
    cut = []
    for _, dialogue in kept:
        if messages := whole_exchanges(dialogue.messages, config.max_turns):
            cut.append(replace(dialogue, messages=messages))
    return cut


def _dialogues(
    records: Path, partition: Partition, config: CorpusConfig, posts: threads.PostCounts
) -> Iterator[Dialogue | Rejection]:
    numbers = range(partition.first, partition.stop)
    if holds_posts(records):
        return threads.dialogues(read_posts(records, numbers), config.threads, posts)
    return read_dialogues(records, numbers)


def _without_duplicates(
    filtered: Iterable[Path], config: CorpusConfig, folder: Path, names: Names
) -> Counter[str]:
    """Merge, give each dialogue a name of its own, and drop duplicates; how many by each rule."""
    dropped: Counter[str] = Counter()
    duplicates = Duplicates(config)
    with (
        RowWriter(folder / DIALOGUES, Dialogue) as kept,
        RowWriter(folder / REJECTED, Rejection) as rejected,
    ):
        for part in filtered:
            for row in pq.read_table(part / REJECTED).to_pylist():
                rejected.write(names.of(Rejection(**row)))
            for dialogue in map(names.of, read_dialogues(part / DIALOGUES)):
                reason = duplicates.reason(dialogue)
                if reason is None:
                    kept.write(dialogue)
                else:
                    dropped[reason] += 1
                    rejected.write(Rejection(dialogue.dialogue_id, reason))
    return dropped


def _steps(config: CorpusConfig, *, has_posts: bool) -> list[str]:
    names = threads.steps(config.threads) if has_posts else []
    names += [SPAN_STEP] if config.span == "longest_run" else []
    return [*names, *(rule.name for rule in alone(config)), *across(config)]
