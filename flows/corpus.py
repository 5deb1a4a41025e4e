"""The corpus: every source read, then its partitions filtered side by side, on any task runner."""

import shutil
from pathlib import Path

from prefect import flow

from flows.runners import Runner, held_by_flow, shared_server, task_runner
from sage_core.config.corpus import CorpusConfig
from sage_core.corpus import ingest, readers
from sage_core.corpus.build import load_funnel
from sage_core.corpus.records import FunnelStep
from sage_core.steps.corpus import Corpus, CorpusPartition
from sage_core.steps.ingest import CorpusSource, SortedPosts
from sage_core.storage import MANIFEST, ArtifactRef
from tasks.caching import make, make_all
from tasks.home import store
from tasks.inputs import source_hash


@flow(name="sage-corpus")
def corpus_flow(config: CorpusConfig) -> ArtifactRef:
    """The corpus alone."""
    with held_by_flow():
        return build_corpus(config)


def run_corpus(config: CorpusConfig, output: Path, runner: Runner) -> list[FunnelStep]:
    """Run :func:`corpus_flow`, copy what it made into ``output`` and return the funnel."""
    with shared_server(runner):
        ref = corpus_flow.with_options(task_runner=task_runner(runner))(config)
    output.mkdir(parents=True, exist_ok=True)
    for path in store().folder(ref).iterdir():
        if path.name != MANIFEST:
            shutil.copyfile(path, output / path.name)
    return load_funnel(output)


def build_corpus(config: CorpusConfig) -> ArtifactRef:
    """The filtered corpus; call it within a flow."""
    sources = make_all(
        [
            CorpusSource(corpus=config.reading, part=source.name, source=source_hash(source.path))
            for source in readers.sources(config)
        ]
    )
    records = sources
    if readers.yields_posts(config):
        records = [make(SortedPosts(sources=tuple(sources), corpus=config.reading))]
    parts = make_all(
        [
            CorpusPartition(
                records=records[partition.source],
                corpus=config,
                first=partition.first,
                stop=partition.stop,
                phrases=source_hash(config.blocked_phrases),
            )
            for partition in ingest.plan([store().folder(source) for source in sources], config)
        ]
    )
    return make(Corpus(sources=tuple(sources), parts=tuple(parts), corpus=config))
