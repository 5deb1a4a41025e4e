"""The data card: where a corpus comes from, what each rule dropped, and its hash."""

from collections.abc import Mapping, Sequence
from hashlib import file_digest
from pathlib import Path, PurePath
from typing import Any

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.filters import scores_sentiment
from sage_core.corpus.lexicon import installed
from sage_core.corpus.sources import reader_of
from sage_core.packaged import packaged
from sage_core.storage import printable

CARD = "data_card.md"
_NOT_OF_THE_CORPUS = {  # named elsewhere on the card, or of training, or without effect on it
    "reader", "input", "licence", "max_dialogues", "max_turns", "weight", "records_per_partition",
    "sort_memory_mb",
}  # fmt: skip


def write(
    folder: Path,
    config: CorpusConfig,
    funnel: Sequence[Mapping[str, Any]],
    quarantined: Mapping[str, int],
    own: Mapping[str, str],
    recognised: Sequence[Mapping[str, Any]],
) -> None:
    """Write the card of the corpus in ``folder`` beside its tables.

    ``own``: the user's own rules and reader, with the hashes of their code; ``recognised``: what
    the reader saw in the files, see :func:`sage_core.corpus.ingest.seen`.

    Holds no time and no absolute path, so that equal corpora have equal cards.
    """
    from jinja2 import Environment

    text = packaged("templates/data_card.md.jinja")
    environment = Environment(trim_blocks=True, keep_trailing_newline=True, autoescape=False)  # noqa: S701 - Markdown
    with (folder / "dialogues.parquet").open("rb") as stream:
        sha256 = file_digest(stream, "sha256").hexdigest()
    thresholds = config.model_dump(mode="json", exclude=_NOT_OF_THE_CORPUS)
    card = environment.from_string(text).render(
        reader=config.reader,
        source=printable(PurePath(config.input.name))
        if config.input
        else f"package of the reader '{config.reader}'",
        licence=config.licence or reader_of(config).licence or "unknown",
        funnel=funnel,
        records=funnel[0]["records"],
        quarantined=sorted(quarantined.items()),
        thresholds=thresholds,
        sha256=sha256,
        own=own,
        lexicon=installed() if scores_sentiment(config) else None,
        recognised=recognised,
    )
    (folder / CARD).write_text(card, encoding="utf-8")
