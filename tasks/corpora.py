"""Versions of a registered model's corpus: one MLflow run each, with the corpus as its data set,
its funnel and its data card."""

from dataclasses import dataclass

import mlflow
from mlflow.data.meta_dataset import MetaDataset
from mlflow.data.sources import LocalArtifactDatasetSource
from mlflow.entities import DatasetInput, RunTag

from sage_core.corpus.card import CARD
from sage_core.corpus.records import DIALOGUES, FUNNEL
from sage_core.storage import ArtifactRef
from tasks.home import store
from tasks.inputs import count
from tasks.registry import Registry
from tasks.tracking import SHA256_TAG

VERSION_TAG = "sage.corpus_version"


@dataclass(frozen=True)
class CorpusVersion:
    """A version of a corpus, from 1; ``new``: this call has made it."""

    registered: str
    version: int
    sha256: str
    dialogues: int
    new: bool


def register(registry: Registry, corpus: ArtifactRef) -> CorpusVersion:
    """Register a corpus as the next version, unless it is one already; call it with the home
    held."""
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(registry.name).experiment_id
    runs = client.search_runs([experiment], f"tags.`{VERSION_TAG}` != ''", max_results=50_000)
    known = {run.data.tags[SHA256_TAG]: int(run.data.tags[VERSION_TAG]) for run in runs}
    dialogues = count(corpus, DIALOGUES)
    if corpus.sha256 in known:
        version = known[corpus.sha256]
        return CorpusVersion(registry.name, version, corpus.sha256, dialogues, new=False)
    version = max(known.values(), default=0) + 1
    run = client.create_run(experiment, run_name=f"corpus {version}").info.run_id
    folder = store().folder(corpus)
    source = LocalArtifactDatasetSource(str(folder))
    data = MetaDataset(source, name=f"{registry.name}-corpus", digest=corpus.sha256[:8])
    client.log_inputs(run, [DatasetInput(data._to_mlflow_entity(), tags=[])])
    client.log_metric(run, "dialogues", dialogues)
    for name in (FUNNEL, CARD):
        client.log_artifact(run, str(folder / name))
    tags = {SHA256_TAG: corpus.sha256, VERSION_TAG: str(version)}  # last: now it is registered
    client.log_batch(run, tags=[RunTag(key, value) for key, value in tags.items()])
    client.set_terminated(run)
    return CorpusVersion(registry.name, version, corpus.sha256, dialogues, new=True)
