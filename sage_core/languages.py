"""What depends on the language of a text: its words, its questions, and whether it is in English.

Words are those between white space, ``str.split()``. Scripts that put none between words (Chinese,
Japanese, Thai, …) have ICU's words (Unicode Standard Annex 29, with ICU's dictionaries).
"""

import re
from collections.abc import Iterable

# Han, kana, Thai, Lao, Myanmar, Khmer, Tai Tham: scripts that ICU has dictionaries or rules for.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u19e0-\u19ff\u1a20-\u1aaf\u3005-\u3007\u3040-\u30ff"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua9e0-\ua9ff\uaa60-\uaadf\uf900-\ufaff\uff66-\uff9d"
    "\U00020000-\U0003ffff]"
)
_QUESTION_MARKS = frozenset(
    "?\uff1f\ufe56\ufe16"  # Latin and its wide, small and vertical forms
    "\u061f\u2e2e"  # Arabic, reversed
    "\u037e\u1367\u2cfa\u2cfb\ua60f\ua6f7"  # Greek, Ethiopic, Nubian, Vai, Bamum
    "\U00011143"  # Chakma
    "\u2047\u2049\u203d\u2e18"  # two of them, the last of two, interrobangs
)
_ARMENIAN = "\u055e"  # stands in the word that is asked about
_GREEK_END = re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]\W*;$")  # a semicolon is Greek's mark
_LETTER = re.compile(r"[^\W\d_]")
_NOT_LATIN = re.compile(
    r"[^\W\d_\u0000-\u024f\u1e00-\u1eff\u2c60-\u2c7f\ua720-\ua7ff\uff21-\uff5a]"
)


def words(text: str) -> list[str]:
    """The words of a text, with the punctuation that no white space parts from them."""
    pieces = text.split()
    if text.isascii() or not _UNSPACED.search(text):
        return pieces
    from icu4py.breakers import WordBreaker

    found: list[str] = []
    for piece in pieces:
        if _UNSPACED.search(piece):
            segments = WordBreaker(piece, "und")
            found += [each for each in segments if any(map(str.isalnum, each))]
        else:
            found.append(piece)
    return found


def asks(text: str) -> bool:
    """Whether a text has a question mark anywhere."""
    return any(mark in text for mark in (*_QUESTION_MARKS, _ARMENIAN))


def is_question(text: str) -> bool:
    """Whether a text ends in a question mark of any script, trailing white space aside."""
    text = text.rstrip()
    if text[-1:] in _QUESTION_MARKS:
        return True
    return not text.isascii() and (_ARMENIAN in text or _GREEK_END.search(text) is not None)


def is_latin(texts: Iterable[str]) -> bool:
    """Whether at least half of the letters are Latin, as those of English are."""
    texts = list(texts)
    others = sum(len(_NOT_LATIN.findall(text)) for text in texts if not text.isascii())
    return not others or 2 * others <= sum(len(_LETTER.findall(text)) for text in texts)
