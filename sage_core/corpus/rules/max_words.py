"""Long dialogues are dropped."""

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.filters import Keeps
from sage_core.languages import words as split
from sage_core.schema import Dialogue


def max_words(config: CorpusConfig) -> Keeps:
    return lambda dialogue: count_words(dialogue) <= config.max_words


def count_words(dialogue: Dialogue) -> int:
    """Words of all turns, in any language (:func:`sage_core.languages.words`)."""
    return sum(len(split(message.content)) for message in dialogue.messages)
