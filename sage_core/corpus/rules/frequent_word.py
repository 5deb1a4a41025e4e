"""Dialogues without a frequent English word are dropped."""

import re

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.filters import Keeps
from sage_core.schema import Dialogue

FREQUENT_WORDS = (
    "the be to of and a in that have I it for not on with he as you do at this but his by from "
    "they we say her she or an will my one all would there their what so up out if about who get "
    "which go me"
)
"""The 50 most frequent lemmas of the Oxford English Corpus, in order (Oxford Dictionaries, "The
OEC: Facts about the language"). Matched as written here, not in their other forms."""

_FREQUENT = re.compile(rf"\b(?:{'|'.join(FREQUENT_WORDS.lower().split())})\b")


def frequent_word(config: CorpusConfig) -> Keeps:
    return has_frequent_word


def has_frequent_word(dialogue: Dialogue) -> bool:
    """A turn has one of :data:`FREQUENT_WORDS`, in any case."""
    return any(_FREQUENT.search(message.content.lower()) for message in dialogue.messages)
