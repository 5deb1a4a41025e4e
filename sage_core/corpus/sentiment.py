"""VADER's compound score, as NLTK computes it from the same lexicon: to the last digit, far faster.

The paper used NLTK's ``SentimentIntensityAnalyzer``. The package ``vaderSentiment`` gives another
score on about one utterance in eleven: only its word lists are used, which are NLTK's but for what
is written here (``tests/corpus/test_sentiment.py`` compares all of them and the scores), and its
lexicon where NLTK's is not installed (:mod:`sage_core.corpus.lexicon`). NLTK itself takes two
seconds to import and pairs every word of an utterance with every punctuation mark. How it cleans
and looks up a word depends on the word alone, so that is kept; words outside the lexicon add
exactly 0, so only the others are weighed.
"""

import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from vaderSentiment import vaderSentiment

from sage_core.corpus.lexicon import installed

# NLTK's constants, by what they differ in from vaderSentiment's.
NO_BOOSTERS = (
    "considerable enormous exceptional extreme frackin fracking fuckin fuggin fugging incredible "
    "major marginal occasional scarce slight total tremendous utter"
)
BOOSTERS: dict[str, float] = {
    word: increment
    for word, increment in vaderSentiment.BOOSTER_DICT.items()
    if word not in NO_BOOSTERS.split()
}
IDIOMS = {
    "the shit": 3,
    "the bomb": 3,
    "bad ass": 1.5,
    "yeah right": -2,
    "cut the mustard": 2,
    "kiss of death": -1.5,
    "hand to mouth": -2,
}
_MARKS = ". ! ? , ; : - ' \" !! !!! ?? ??? ?!? !?! ?!?! !?!?"
PUNCTUATION = frozenset(_MARKS.split())
NEGATIONS: frozenset[str] = frozenset(vaderSentiment.NEGATE)
DECREASE: float = vaderSentiment.B_DECR
CAPITALS: float = vaderSentiment.C_INCR
NEGATION: float = vaderSentiment.N_SCALAR

_PHRASES = [phrase.split() for phrase in (*IDIOMS, *BOOSTERS) if " " in phrase]
# One rare word of every phrase: an utterance without them has none.
_KEYWORDS = frozenset(max(phrase, key=len) for phrase in _PHRASES)
_SO = ("so", "this")
# Words with a part in VADER's rules, on top of the lexicon, boosters and negations.
_ROLES = frozenset(word for phrase in _PHRASES for word in phrase) | {
    *_SO,
    "at",
    "but",
    "least",
    "never",
    "very",
}
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORDS_KEPT = 65_536
_LONGEST_KEPT = 40


@cache
def analyser() -> Callable[[str], float]:
    """A function from an utterance to its compound score in [-1, 1], rounded to four digits.

    It keeps what it looked up of the last 65,536 words at most, under 10 MB.
    """
    return _Analyser(lexicon())


@cache
def reference() -> Callable[[str], float]:
    """NLTK's own analyser with the same lexicon: what tests and benchmarks compare
    :func:`analyser` with."""
    import nltk
    from nltk.sentiment.vader import SentimentIntensityAnalyzer

    # NLTK refuses lexicon paths outside its own search path.
    folder = str(resources.files("vaderSentiment"))
    if folder not in nltk.data.path:
        nltk.data.path.append(folder)
    vader = SentimentIntensityAnalyzer(lexicon_file="vader_lexicon.txt")
    vader.lexicon = lexicon()

    def compound(utterance: str) -> float:
        return float(vader.polarity_scores(utterance)["compound"])

    return compound


def lexicon() -> dict[str, float]:
    """VADER's words and emoticons, in lower case, with their valence in [-4, 4]."""
    text = installed().content.decode("utf-8")
    lines = (line.strip().split("\t") for line in text.split("\n") if line.strip())
    return {word: float(valence) for word, valence, *_ in lines}


@dataclass(frozen=True, slots=True)
class _Token:
    """What VADER asks of a word, punctuation around it removed."""

    word: str = ""
    lower: str = ""
    upper: bool = False
    in_lexicon: bool = False
    valence: float | None = None
    """None = never counts on its own."""
    boost: float = 0.0
    negates: bool = False
    is_keyword: bool = False
    is_marked: bool = False
    """Any of: has a valence, is in capitals, a keyword or 'but'."""


# All words without a part share these two: most look-ups then stay in the processor's cache.
_PLAIN = _Token()
_CAPITALS = _Token(upper=True, is_marked=True)


class _Tokens(dict[str, _Token | None]):
    """The token of each piece between white space; None for single characters."""

    def __init__(self, words: dict[str, float]) -> None:
        self._lexicon = words

    def __missing__(self, piece: str) -> _Token | None:
        token = self._token(piece) if len(piece) > 1 else None
        if len(piece) <= _LONGEST_KEPT:
            if len(self) >= _WORDS_KEPT:
                self.clear()
            self[piece] = token
        return token

    def _token(self, piece: str) -> _Token:
        word = piece
        bare = piece.translate(_NO_PUNCTUATION)
        if len(bare) > 1 and (
            (piece.startswith(bare) and piece[len(bare) :] in PUNCTUATION)
            or (piece.endswith(bare) and piece[: -len(bare)] in PUNCTUATION)
        ):
            word = bare
        lower = word.lower()
        upper = word.isupper()
        in_lexicon = lower in self._lexicon
        negates = lower in NEGATIONS or "n't" in lower
        if not (in_lexicon or negates or lower in BOOSTERS or lower in _ROLES):
            return _CAPITALS if upper else _PLAIN
        valence = None if lower in BOOSTERS else self._lexicon.get(lower)
        is_keyword = word in _KEYWORDS
        return _Token(
            word=word,
            lower=lower,
            upper=upper,
            in_lexicon=in_lexicon,
            valence=valence,
            boost=BOOSTERS.get(lower, 0.0),
            negates=negates,
            is_keyword=is_keyword,
            is_marked=valence is not None or upper or is_keyword or lower == "but",
        )


class _Analyser:
    def __init__(self, words: dict[str, float]) -> None:
        self._tokens = _Tokens(words)

    def __call__(self, utterance: str) -> float:
        tokens = list(filter(None, map(self._tokens.__getitem__, utterance.split())))
        marked = [(i, token) for i, token in enumerate(tokens) if token.is_marked]
        positions = [i for i, token in marked if token.valence is not None]
        if not positions:
            return 0.0
        capitals = sum(token.upper for _, token in marked)
        mixed_case = 0 < capitals < len(tokens)
        idioms = any(token.is_keyword for _, token in marked)
        # A word that comes several times has the valence of its first place.
        by_word: dict[str, float] = {}
        valences = []
        for i in positions:
            word = tokens[i].word
            if word not in by_word:
                by_word[word] = _valence(tokens, i, mixed_case, idioms)
            valences.append(by_word[word])
        but = next((i for i, token in marked if token.lower == "but"), None)
        if but is not None:
            valences = [
                valence * (0.5 if i < but else 1.5)
                for i, valence in zip(positions, valences, strict=True)
            ]
        # sum() and not a loop: newer Pythons add floats in it with less rounding.
        total = float(sum(valences))
        if total > 0:
            total += _emphasis(utterance)
        elif total < 0:
            total -= _emphasis(utterance)
        return round(total / math.sqrt((total * total) + 15), 4)


def _valence(tokens: Sequence[_Token], i: int, mixed_case: bool, idioms: bool) -> float:
    """The valence of a word of the lexicon among the words before it.

    The order of the operations is NLTK's, so that every rounding is too.
    """
    token = tokens[i]
    if token.lower == "kind" and i + 1 < len(tokens) and tokens[i + 1].lower == "of":
        return 0.0
    assert token.valence is not None
    valence = token.valence
    if token.upper and mixed_case:
        valence += CAPITALS if valence > 0 else -CAPITALS
    after_so = i > 0 and tokens[i - 1].word in _SO
    for distance in range(1, min(i, 3) + 1):
        before = tokens[i - distance]
        if before.in_lexicon:
            continue
        if before.boost:
            boost = before.boost if valence >= 0 else -before.boost
            if before.upper and mixed_case:
                boost += CAPITALS if valence > 0 else -CAPITALS
            valence += boost * (1.0, 0.95, 0.9)[distance - 1]
        if distance == 2 and after_so and before.word == "never":
            valence *= 1.5
        elif distance == 3 and (after_so or (before.word == "never" and tokens[i - 2].word in _SO)):
            valence *= 1.25
        elif before.negates:
            valence *= NEGATION
        if distance == 3 and idioms:
            valence = _with_idioms(valence, tokens, i)
    if (
        i > 0
        and tokens[i - 1].lower == "least"
        and not tokens[i - 1].in_lexicon
        and (i == 1 or tokens[i - 2].lower not in ("at", "very"))
    ):
        valence *= NEGATION
    return valence


def _with_idioms(valence: float, tokens: Sequence[_Token], i: int) -> float:
    words = [token.word for token in tokens[i - 3 : i + 3]]
    three_two, two_one = " ".join(words[0:2]), " ".join(words[1:3])
    sequences = (
        " ".join(words[2:4]),
        " ".join(words[1:4]),
        two_one,
        " ".join(words[0:3]),
        three_two,
    )
    valence = next((IDIOMS[phrase] for phrase in sequences if phrase in IDIOMS), valence)
    for stop in (5, 6):
        valence = IDIOMS.get(" ".join(words[3:stop]), valence)
    if three_two in BOOSTERS or two_one in BOOSTERS:
        valence += DECREASE
    return valence


def _emphasis(utterance: str) -> float:
    exclamations = min(utterance.count("!"), 4) * 0.292
    questions = utterance.count("?")
    if questions <= 1:
        return exclamations
    return exclamations + (questions * 0.18 if questions <= 3 else 0.96)
