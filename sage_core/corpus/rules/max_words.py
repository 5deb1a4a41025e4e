"""Long dialogues are dropped."""

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.filters import Keeps
from sage_core.schema import Dialogue


def max_words(config: CorpusConfig) -> Keeps:
    return lambda dialogue: count_words(dialogue) <= config.max_words


def count_words(dialogue: Dialogue) -> int:
    """Words of all turns; words are ``str.split()``."""
    return sum(len(message.content.split()) for message in dialogue.messages)
