"""Dialogues with a turn that is not kind enough are dropped."""

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.filters import Keeps
from sage_core.corpus.sentiment import analyser


def sentiment(config: CorpusConfig) -> Keeps:
    compound = analyser()
    return lambda dialogue: all(
        compound(message.content) > config.min_sentiment for message in dialogue.messages
    )
