"""Dialogues in which a word is repeated in a row are dropped."""

import string
from itertools import groupby
from operator import eq

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.filters import Keeps
from sage_core.languages import words as split

_PUNCTUATION = string.punctuation + "“”‘’«»…–—¡¿"  # noqa: RUF001


def repeated_word(config: CorpusConfig) -> Keeps:
    return lambda dialogue: all(
        most_repeats(message.content) <= config.max_repeats for message in dialogue.messages
    )


def most_repeats(text: str) -> int:
    """How often the most repeated word comes in a row; 0 for a text without words.

    Words are compared casefolded and without punctuation at their ends; punctuation that is
    alone is no word, and does not end a row.
    """
    pieces = (piece.strip(_PUNCTUATION) for piece in split(text.casefold()))
    words = [word for word in pieces if word]
    if not any(map(eq, words, words[1:])):
        return min(len(words), 1)
    return max(sum(1 for _ in row) for _, row in groupby(words))
