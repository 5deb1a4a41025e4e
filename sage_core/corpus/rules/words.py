"""Dialogues of short turns are dropped."""

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.filters import Keeps
from sage_core.corpus.rules.max_words import count_words
from sage_core.schema import Dialogue


def words(config: CorpusConfig) -> Keeps:
    return lambda dialogue: mean_words(dialogue) > config.min_mean_words


def mean_words(dialogue: Dialogue) -> float:
    """Mean number of words per turn, in any language."""
    return count_words(dialogue) / len(dialogue.messages) if dialogue.messages else 0.0
