"""Build a corpus: read, cut to the span, filter, count.

``kept + dropped == read`` at every step, and every dropped dialogue has its reason in
``rejected.parquet``.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TypedDict

from sage_core.config import CorpusConfig
from sage_core.corpus.filters import filters, longest_run
from sage_core.errors import DataError
from sage_core.schema import Dialogue, Rejection
from sage_core.storage import read_json, read_rows, write_json, write_rows

DIALOGUES = "dialogues.parquet"
REJECTED = "rejected.parquet"
FUNNEL = "funnel.json"
SPAN_STEP = "span"


class FunnelStep(TypedDict, total=False):
    """One step of the funnel; ``quarantined`` stands on the first step, ``read``, only."""

    step: str
    kept: int
    dropped: int
    quarantined: int


@dataclass(frozen=True)
class FilteredCorpus:
    """What the filters kept and dropped of the dialogues they were given."""

    kept: tuple[Dialogue, ...]
    rejected: tuple[Rejection, ...]
    funnel: tuple[FunnelStep, ...]


def filter_dialogues(
    dialogues: Iterable[Dialogue],
    config: CorpusConfig,
    on_progress: Callable[[int], None] = lambda count: None,
) -> FilteredCorpus:
    """Apply the configured span and rules to ``dialogues``."""
    rules = filters(config)
    kept: list[Dialogue] = []
    rejected: list[Rejection] = []
    read = 0
    for dialogue in dialogues:
        read += 1
        candidate: Dialogue | None = dialogue
        if config.span == "longest_run":
            candidate = longest_run(dialogue, config.min_sentiment, config.min_turns)
        reason = SPAN_STEP
        if candidate is not None:
            reason = next((rule.name for rule in rules if not rule.keeps(candidate)), "")
        if candidate is None or reason:
            rejected.append(Rejection(dialogue.dialogue_id, reason))
        else:
            kept.append(candidate)
        on_progress(1)
    steps = [SPAN_STEP] if config.span == "longest_run" else []
    steps += [rule.name for rule in rules]
    return FilteredCorpus(tuple(kept), tuple(rejected), tuple(_funnel(read, steps, rejected)))


def merge(parts: Sequence[FilteredCorpus]) -> FilteredCorpus:
    """Put the parts of a sharded corpus together again, in order."""
    steps = [step["step"] for step in parts[0].funnel[1:]]
    rejected = tuple(rejection for part in parts for rejection in part.rejected)
    read = sum(part.funnel[0]["kept"] for part in parts)
    return FilteredCorpus(
        kept=tuple(dialogue for part in parts for dialogue in part.kept),
        rejected=rejected,
        funnel=tuple(_funnel(read, steps, rejected)),
    )


def save(corpus: FilteredCorpus, folder: Path) -> None:
    """Write ``dialogues.parquet``, ``rejected.parquet`` and ``funnel.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / DIALOGUES, corpus.kept, Dialogue)
    write_rows(folder / REJECTED, corpus.rejected, Rejection)
    write_json(folder / FUNNEL, list(corpus.funnel))


def load(folder: Path) -> FilteredCorpus:
    """Read what :func:`save` wrote."""
    return FilteredCorpus(
        tuple(read_rows(folder / DIALOGUES, Dialogue)),
        tuple(read_rows(folder / REJECTED, Rejection)),
        tuple(read_json(folder / FUNNEL)),
    )


def training_dialogues(corpus: FilteredCorpus, config: CorpusConfig, seed: int) -> list[Dialogue]:
    """The kept dialogues that training uses: a random sample, cut to whole exchanges.

    A dialogue ends on an assistant turn, since a last user turn carries no loss.

    Raises:
        DataError: no dialogue is left.
    """
    kept = sorted(corpus.kept, key=lambda dialogue: dialogue.dialogue_id)
    if config.max_dialogues and len(kept) > config.max_dialogues:
        kept = Random(seed).sample(kept, config.max_dialogues)
    cut = []
    for dialogue in kept:
        turns = min(len(dialogue.messages), config.max_turns or len(dialogue.messages))
        if turns >= 2:
            cut.append(replace(dialogue, messages=dialogue.messages[: turns - turns % 2]))
    if not cut:
        counts = ", ".join(f"{step['step']}: {step['kept']}" for step in corpus.funnel)
        raise DataError(
            f"no dialogue is left after the filters (kept after each step: {counts}); loosen "
            "corpus.min_turns, corpus.min_mean_words or corpus.min_sentiment, set "
            "corpus.span=longest_run, or give more input"
        )
    return cut


def _funnel(read: int, steps: Sequence[str], rejected: Iterable[Rejection]) -> list[FunnelStep]:
    dropped = Counter(rejection.reason for rejection in rejected)
    funnel = [FunnelStep(step="read", kept=read, dropped=0, quarantined=0)]
    for step in steps:
        read -= dropped[step]
        funnel.append(FunnelStep(step=step, kept=read, dropped=dropped[step]))
    return funnel
