"""Dialogues with an address of the web are dropped."""

import re

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.filters import Keeps
from sage_core.schema import Dialogue

_URL = re.compile(r"https?://|\bwww\.\w")


def url(config: CorpusConfig) -> Keeps:
    return lambda dialogue: not has_url(dialogue)


def has_url(dialogue: Dialogue) -> bool:
    """A turn has ``http://``, ``https://`` or ``www.``; bare domain names are not looked for."""
    texts = (message.content.lower() for message in dialogue.messages)
    return any(("http" in text or "www." in text) and _URL.search(text) for text in texts)
