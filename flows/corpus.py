"""The corpus as a flow: its steps are cached tasks, side by side on any task runner."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from prefect import flow

from flows.runners import Runner, held_by_flow, shared_server, task_runner
from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.build import load_funnel
from sage_core.corpus.records import FunnelStep
from sage_core.corpus.sources import check_output
from sage_core.steps.base import Step
from sage_core.steps.whole_corpus import make_corpus
from sage_core.storage import MANIFEST, ArtifactRef
from tasks import caching, inputs
from tasks.home import store


@flow(name="sage-corpus")
def corpus_flow(config: CorpusConfig) -> ArtifactRef:
    """The corpus alone."""
    with held_by_flow():
        return build_corpus(config)


def run_corpus(config: CorpusConfig, output: Path, runner: Runner) -> list[FunnelStep]:
    """Run :func:`corpus_flow`, copy what it made into ``output`` and return the funnel."""
    check_output(config, output)
    with shared_server(runner):
        ref = corpus_flow.with_options(task_runner=task_runner(runner))(config)
    output.mkdir(parents=True, exist_ok=True)
    for path in store().folder(ref).iterdir():
        if path.name != MANIFEST:
            shutil.copyfile(path, output / path.name)
    return load_funnel(output)


def build_corpus(config: CorpusConfig) -> ArtifactRef:
    """The filtered corpus; call it within a flow."""
    return make_corpus(config, _Tasks())


class _Tasks:
    """Makes steps in the SAGE home (:class:`sage_core.steps.whole_corpus.Maker`)."""

    def make(self, step: Step) -> ArtifactRef:
        return caching.make(step)

    def make_all(self, steps: Sequence[Step]) -> list[ArtifactRef]:
        return caching.make_all(steps)

    def folder(self, ref: ArtifactRef) -> Path:
        return store().folder(ref)

    def source_hash(self, path: Path | None) -> str:
        return inputs.source_hash(path)
