"""The first half of a corpus: reading its sources (section 4.1)."""

from dataclasses import dataclass
from pathlib import Path

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus import ingest
from sage_core.corpus.readers import READERS
from sage_core.corpus.sources import sources
from sage_core.named import Named
from sage_core.steps.base import Context, Step
from sage_core.storage import ArtifactRef


@dataclass(frozen=True, kw_only=True)
class CorpusSource(Step):
    """The records of one source.

    Attributes:
        corpus: what reading depends on (:attr:`CorpusConfig.reading`).
        part: the source's name.
        source: the hash of its content.
    """

    name = "corpus-source"
    corpus: CorpusConfig
    part: str
    source: str

    @property
    def named(self) -> tuple[Named, ...]:
        return READERS.resolve(self.corpus.reader)

    def run(self, folder: Path, context: Context) -> None:
        (found,) = (found for found in sources(self.corpus) if found.name == self.part)
        ingest.ingest(found, self.corpus, folder)


@dataclass(frozen=True, kw_only=True)
class SortedPosts(Step):
    """The posts of all sources, sorted by thread."""

    name = "sorted-posts"
    sources: tuple[ArtifactRef, ...]
    corpus: CorpusConfig

    def run(self, folder: Path, context: Context) -> None:
        folders = [context.folder(source) for source in self.sources]
        ingest.sort_posts(folders, folder / ingest.RECORDS, self.corpus.sort_memory_mb)
