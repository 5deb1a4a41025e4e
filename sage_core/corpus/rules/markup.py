"""Dialogues with markup are dropped."""

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.filters import Keeps
from sage_core.schema import Dialogue


def markup(config: CorpusConfig) -> Keeps:
    return lambda dialogue: not has_markup(dialogue)


def has_markup(dialogue: Dialogue) -> bool:
    """A turn has a square bracket, as links and tags do."""
    return any("[" in message.content or "]" in message.content for message in dialogue.messages)
