"""Dialogues without a question are dropped."""

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.filters import Keeps
from sage_core.languages import is_question
from sage_core.schema import Dialogue


def question(config: CorpusConfig) -> Keeps:
    return asks_question


def asks_question(dialogue: Dialogue) -> bool:
    """At least one turn ends in a question mark of any script, trailing white space aside."""
    return any(is_question(message.content) for message in dialogue.messages)
