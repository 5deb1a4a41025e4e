"""Dialogues of few turns are dropped (the paper keeps those of more than four)."""

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.filters import Keeps
from sage_core.schema import Dialogue


def turns(config: CorpusConfig) -> Keeps:
    return lambda dialogue: has_turns(dialogue, config.min_turns)


def has_turns(dialogue: Dialogue, min_turns: int) -> bool:
    """At least ``min_turns`` turns."""
    return len(dialogue.messages) >= min_turns
