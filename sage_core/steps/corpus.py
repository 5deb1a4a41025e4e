"""The second half of a corpus: filtering and merging (section 4.1)."""

from dataclasses import dataclass
from pathlib import Path

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus import build, ingest
from sage_core.corpus.filters import alone, rules_of
from sage_core.corpus.readers import READERS
from sage_core.corpus.tables import rows_in
from sage_core.named import Named
from sage_core.steps.base import Context, Step
from sage_core.steps.code import own_code
from sage_core.storage import ArtifactRef


@dataclass(frozen=True, kw_only=True)
class CorpusPartition(Step):
    """One partition of the records as dialogues, filtered.

    Attributes:
        first, stop: which partition, see :class:`ingest.Partition`.
        phrases: the hash of the user's list of offensive ones.
    """

    name = "corpus-partition"
    records: ArtifactRef
    corpus: CorpusConfig
    first: int
    stop: int
    phrases: str

    @property
    def named(self) -> tuple[Named, ...]:
        return tuple(alone(self.corpus))

    def run(self, folder: Path, context: Context) -> None:
        path = context.folder(self.records) / ingest.RECORDS
        total = min(rows_in(path), self.corpus.records_per_partition)
        with context.progress("filter corpus", total) as advance:
            partition = ingest.Partition(0, self.first, self.stop)
            build.filter_partition(path, partition, self.corpus, folder, advance)


@dataclass(frozen=True, kw_only=True)
class Corpus(Step):
    """All kept and dropped dialogues, the funnel, the quarantine and the data card."""

    name = "corpus"
    sources: tuple[ArtifactRef, ...]
    parts: tuple[ArtifactRef, ...]
    corpus: CorpusConfig

    @property
    def named(self) -> tuple[Named, ...]:
        return (*READERS.resolve(self.corpus.reader), *rules_of(self.corpus))

    def run(self, folder: Path, context: Context) -> None:
        build.merge(
            [context.folder(source) for source in self.sources],
            [context.folder(part) for part in self.parts],
            self.corpus,
            folder,
            own_code(self.named),
        )
