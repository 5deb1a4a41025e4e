"""The rules that look across dialogues: exact and near duplicates of those kept before.

Not in the paper. Paths of one reply tree share their beginnings, and jokes are posted again and
again; the first of equals is kept, in the reader's order.

Near duplicates are found by MinHash and locality-sensitive hashing (Broder 1997; the package
datasketch) on shingles of five words, and every pair found is then checked by its exact Jaccard
similarity: what is dropped reaches the threshold, and of pairs that just reach it fewer than one
in a hundred is missed.
"""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.filters import across
from sage_core.schema import Dialogue

Hashes = NDArray[np.uint64]

SHINGLE_WORDS = 5
PERMUTATIONS = 64
MAX_MISSED = 0.01
SEED = 1


class Duplicates:
    """Says of dialogues, in order, whether they repeat one that was kept before.

    Memory grows with the kept dialogues only: about 100 bytes each for ``exact_duplicate``; for
    ``near_duplicate`` 8 bytes for every word and, at a similarity of 0.8, about 4,600 bytes of
    index.

    Raises:
        ConfigError: a configured rule does not exist.
    """

    def __init__(self, config: CorpusConfig) -> None:
        rules = across(config)
        self._keys: set[bytes] | None = set() if "exact_duplicate" in rules else None
        similarity = config.near_duplicate_similarity
        self._index = _Index(similarity) if "near_duplicate" in rules else None

    def reason(self, dialogue: Dialogue) -> str | None:
        """The rule under which the dialogue is a duplicate; None = it is kept, and remembered."""
        key = exact_key(dialogue)
        if self._keys is not None and key in self._keys:
            return "exact_duplicate"
        if self._index is not None and not self._index.add(shingles(dialogue)):
            return "near_duplicate"
        if self._keys is not None:
            self._keys.add(key)
        return None


def exact_key(dialogue: Dialogue) -> bytes:
    """16 bytes that dialogues share if their turns are the same but for white space and case,
    whichever role says them."""
    turns = (" ".join(message.content.casefold().split()) for message in dialogue.messages)
    return blake2b("\n".join(turns).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def shingles(dialogue: Dialogue) -> Hashes:
    """The different runs of five words of a dialogue, as sorted 64-bit hashes (N,).

    Words run on over the ends of turns. Fewer than five words are one shingle.
    """
    words = [word for m in dialogue.messages for word in m.content.casefold().split()]
    last = max(len(words) - SHINGLE_WORDS, 0)
    texts = {" ".join(words[start : start + SHINGLE_WORDS]) for start in range(last + 1)}
    digests = (
        blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in texts
    )
    return np.sort(np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64))


def jaccard(a: Hashes, b: Hashes) -> float:
    """Shared elements over all elements of two sets, given without repetitions."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def bands(similarity: float) -> tuple[int, int]:
    """Bands of the index and rows of a band: the longest rows, so the fewest needless checks, that
    find a pair of just this ``similarity`` in (0, 1] with a chance of 1 - ``MAX_MISSED``.

    A pair is found if one of b bands of r rows agrees: 1 - (1 - s^r)^b (Leskovec et al., "Mining
    of Massive Datasets", section 3.4). Similarities under 0.07 are missed more often.
    """
    rows = PERMUTATIONS // 2
    while rows > 1 and (1 - similarity**rows) ** (PERMUTATIONS // rows) > MAX_MISSED:
        rows -= 1
    return PERMUTATIONS // rows, rows


class _Index:
    """Sets of shingles, no two of which reach the similarity."""

    def __init__(self, similarity: float) -> None:
        # Loads SciPy's integration, a second: only where the rule is asked for.
        from datasketch import MinHash, MinHashLSH

        self._similarity = similarity
        self._lsh = MinHashLSH(num_perm=PERMUTATIONS, params=bands(similarity))
        self._empty = MinHash(num_perm=PERMUTATIONS, seed=SEED, hashfunc=int)
        self._kept: list[Hashes] = []

    def add(self, found: Hashes) -> bool:
        """Add a set, unless it reaches the similarity to one that is there."""
        sketch = self._empty.copy()
        sketch.update_batch(found & np.uint64(0xFFFFFFFF))
        for number in self._lsh.query(sketch):
            if jaccard(found, self._kept[number]) >= self._similarity:
                return False
        self._lsh.insert(len(self._kept), sketch, check_duplication=False)
        self._kept.append(found)
        return True
