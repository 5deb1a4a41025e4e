"""Dialogues without a question are dropped."""

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.filters import Keeps
from sage_core.schema import Dialogue


def question(config: CorpusConfig) -> Keeps:
    return asks_question


def asks_question(dialogue: Dialogue) -> bool:
    """At least one turn ends in a question mark, trailing white space aside."""
    return any(message.content.rstrip().endswith("?") for message in dialogue.messages)
