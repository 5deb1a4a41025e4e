"""A corpus from its input: the steps that make it, whoever runs them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus import ingest
from sage_core.corpus.filters import filters
from sage_core.corpus.sources import sources
from sage_core.corpus.tables import holds_posts
from sage_core.steps.base import Step
from sage_core.steps.corpus import Corpus, CorpusPartition
from sage_core.steps.ingest import CorpusSource, SortedPosts
from sage_core.storage import ArtifactRef


class Maker(Protocol):
    """Whoever runs steps: a pool of processes, or a flow with cached tasks."""

    def make(self, step: Step) -> ArtifactRef: ...

    def make_all(self, steps: Sequence[Step]) -> list[ArtifactRef]:
        """The artefacts of steps that can be made side by side, in order."""
        ...

    def folder(self, ref: ArtifactRef) -> Path: ...

    def source_hash(self, path: Path | None) -> str:
        """What tells other content of an input file from this one."""
        ...


def make_corpus(config: CorpusConfig, maker: Maker) -> ArtifactRef:
    """Read every source, sort posts by thread, filter the partitions side by side, merge.

    Raises:
        ConfigError: a wrong rule or reader, or a reader without its input.
        DataError: the input is missing, or too many of its records are bad.
    """
    filters(config)
    read = maker.make_all(
        [
            CorpusSource(
                corpus=config.reading, part=source.name, source=maker.source_hash(source.path)
            )
            for source in sources(config)
        ]
    )
    folders = [maker.folder(ref) for ref in read]
    ingest.check_share(config, *ingest.counted(folders))
    records = read
    if holds_posts(folders[0] / ingest.RECORDS):
        records = [maker.make(SortedPosts(sources=tuple(read), corpus=config.reading))]
    parts = maker.make_all(
        [
            CorpusPartition(
                records=records[partition.source],
                corpus=config,
                first=partition.first,
                stop=partition.stop,
                phrases=maker.source_hash(config.blocked_phrases),
            )
            for partition in ingest.plan(folders, config)
        ]
    )
    return maker.make(Corpus(sources=tuple(read), parts=tuple(parts), corpus=config))
