"""A new version of the corpus of a registered model, which starts a round of retraining."""

from dataclasses import asdict
from typing import Any

from flows.corpus import build_corpus
from flows.form import changes
from flows.retraining import Confine, settings
from tasks import corpora, notices
from tasks.registry import Registry


def register(
    name: str,
    data: str,
    reader: str,
    confine: Confine,
) -> dict[str, Any]:
    """Build the corpus as a round of retraining does, and register it if it is not known; call it
    within a flow, with the home held. Returns the version as JSON values.

    Args:
        name: the registered model; '' for the only one that there is.
        data, reader: as in the form; '' = those of the champion's run.
        confine: as in :func:`flows.retraining.retrain`.

    Raises:
        ConfigError: there is no champion.
    """
    registry = Registry(name)
    before = registry.config(registry.champion())
    overrides = changes({"corpus.input": data, "corpus.reader": reader})
    config = confine(settings(before, overrides), before)
    version = corpora.register(registry, build_corpus(config.corpus))
    if version.new:
        notices.corpus_registered(version.registered, version.version, data, reader)
    return asdict(version)
