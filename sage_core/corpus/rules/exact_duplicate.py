"""Dialogues that repeat one that was kept before are dropped.

Not in the paper. Memory grows by about 100 bytes for each kept dialogue.
"""

from functools import partial
from hashlib import blake2b

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.duplicates import Admit, Remember
from sage_core.schema import Dialogue


def exact_duplicate(config: CorpusConfig) -> Admit:
    kept: set[bytes] = set()

    def admit(dialogue: Dialogue) -> Remember | None:
        key = exact_key(dialogue)
        return None if key in kept else partial(kept.add, key)

    return admit


def exact_key(dialogue: Dialogue) -> bytes:
    """16 bytes that dialogues share if their turns are the same but for white space and case,
    whichever role says them."""
    turns = (" ".join(message.content.casefold().split()) for message in dialogue.messages)
    return blake2b("\n".join(turns).encode("utf-8", "surrogatepass"), digest_size=16).digest()
