"""Dialogues that are nearly the same as one that was kept before are dropped.

Not in the paper. Found by MinHash and locality-sensitive hashing (Broder 1997; the package
datasketch) on shingles of five words; every pair found is then checked by its exact Jaccard
similarity: what is dropped reaches the threshold, and of pairs that just reach it fewer than one
in a hundred is missed.

Memory grows with the kept dialogues only: 8 bytes for every word and, at a similarity of 0.8, about
4,600 bytes of index each.
"""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.duplicates import Admit, Remember
from sage_core.languages import words as split
from sage_core.schema import Dialogue

Hashes = NDArray[np.uint64]

SHINGLE_WORDS = 5
PERMUTATIONS = 64
MAX_MISSED = 0.01
SEED = 1


def near_duplicate(config: CorpusConfig) -> Admit:
    # Loads SciPy's integration, a second: only where the rule is asked for.
    from datasketch import MinHash, MinHashLSH

    similarity = config.near_duplicate_similarity
    index = MinHashLSH(num_perm=PERMUTATIONS, params=bands(similarity))
    empty = MinHash(num_perm=PERMUTATIONS, seed=SEED, hashfunc=int)
    kept: list[Hashes] = []

    def admit(dialogue: Dialogue) -> Remember | None:
        found = shingles(dialogue)
        sketch = empty.copy()
        sketch.update_batch(found & np.uint64(0xFFFFFFFF))
        if any(jaccard(found, kept[number]) >= similarity for number in index.query(sketch)):
            return None

        def remember() -> None:
            index.insert(len(kept), sketch, check_duplication=False)
            kept.append(found)

        return remember

    return admit


def shingles(dialogue: Dialogue) -> Hashes:
    """The different runs of five words of a dialogue, as sorted 64-bit hashes (N,).

    Words run on over the ends of turns. Fewer than five words are one shingle.
    """
    words = [word for m in dialogue.messages for word in split(m.content.casefold())]
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
