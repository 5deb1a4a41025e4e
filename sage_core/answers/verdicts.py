"""The verdict in a judge's answer: which of two conversations, A or B, or a tie.

Judges are asked for ``Verdict: A``. They also answer in the forms of benchmarks: ``[[B]]`` and
``[[C]]`` for a tie (MT-Bench), ``\\boxed{B}`` (mathematics), ``Winner: B``, JSON, or a sentence.
What they quote from the conversations or the instructions is no verdict of theirs.

Read in this order, the first that is found counts:

1. a JSON object that opens the answer;
2. a named verdict (``Verdict:``, ``Winner is``, ``[[…]]``, ``\\boxed{…}``), of several the last; a
   sentence that names two different ones only lists the choices;
3. an answer that opens with the letter alone;
4. sentences that prefer one (``B is better``) or call both equal, unless they disagree;
5. a JSON object anywhere.
"""

import re
from typing import Literal

from sage_core.answers.objects import objects_in
from sage_core.answers.text import without_fences

Grade = Literal["a", "b", "tie"]

_KEYS = ("verdict", "winner", "answer", "choice", "preference", "better", "judgment", "judgement")
_NOUN = r"(?:conversation|chatbot|companion|assistant|chat|dialogue|option|model|response|bot)"
_TIE = r"(?:tied|tie|draw|equal(?:ly)?|neither|no (?:clear )?(?:winner|preference|difference))"
_AND = rf"(?!\s*(?:[,/&|=]|and\b|or\b|nor\b|vs\b)\s*(?:the\s+)?(?:{_NOUN}\s+)?['\"]?[AB]\b)"
_WHOSE = rf"(?:the\s+)?(?:{_NOUN}\s+(?:(?:in|of|from)\s+{_NOUN}\s+)?)?"
_WORSE = r"(?!\s+(?:is|was|seems|feels)\s+(?:\w+\s+){0,2}(?:worse|worst|weaker|inferior|less)\b)"
_LETTER = rf"{_WHOSE}['\"(]?(?P<letter>[AB])\b['\")]?{_AND}{_WORSE}"
_NAMES = r"(?:verdict|winner|answer|choice|decision|judge?ment|preference|vote|conclusion)"
_NAMED = re.compile(
    rf"\[\[\s*(?:{_NOUN}\s+)?(?P<double>A|B|C|tie)\s*\]\]"
    r"|\\boxed\{\s*(?:\\text(?:bf)?\{)?\s*" + rf"(?:{_NOUN}\s+)?(?P<boxed>A|B|tie)\s*\}}"
    rf"|\b(?:verdict\s|{_NAMES}(?:\s+(?:is|goes\s+to)\b|\s*[^\w\s]))\W*(?:"
    rf"(?:(?:a|an|it(?:'s| is)(?: a)?|about|roughly|the)\s+)*(?P<tie>{_TIE})\b|{_LETTER})",
    re.IGNORECASE,
)
_ALONE = re.compile(rf"\s*(?:{_NOUN}\s+)?(?P<letter>[AB])(?=\s*(?:$|\n|[.,:;!(-]))", re.IGNORECASE)
_TIE_ALONE = re.compile(r"\s*(?:(?:it(?:'s| is)|a|an)\s+)*(?:tie|draw)\b", re.IGNORECASE)
_BETTER = r"(?:better|best|superior|preferable|preferred|stronger|(?:the )?winner)"
_PREFERRED = re.compile(
    # Letters are capitals here: "a" is an article.
    rf"\b(?P<is>[AB])\b(?:'s)?(?:\s+(?i:{_NOUN}))?\s+(?i:is|was|seems|feels|wins?\b|has won\b|does)"
    rf"(?:(?<=win)|(?<=wins)|(?<=won)|\s+(?i:(?:the|clearly|slightly|much|overall|a|bit|far|"
    rf"marginally|somewhat|generally)\s+)*(?i:{_BETTER})\b)"
    rf"|\b(?i:prefer|choose|pick|select|favou?r|vote for|go with)\s+(?i:the\s+)?(?i:{_NOUN}\s+)?"
    rf"(?P<chosen>[AB])\b"
    rf"|\b(?i:{_BETTER})\s+(?i:one|{_NOUN})\s+(?i:is|was)\s+(?i:{_NOUN}\s+)?(?P<one>[AB])\b"
)
_EQUAL = re.compile(
    r"\bequal(?:ly)?\b|\b(?:a|is|it's) (?:tie|draw)\b|\btied\b|\bneither\b"
    r"|\bboth\b.*\b(?:same|alike)|\bas good as\b"
    r"|\bno (?:clear )?(?:winner|preference|difference)\b",
    re.IGNORECASE,
)
_DENIED = re.compile(r"\b(?:not|never|cannot|neither|hardly)\b|n't\b", re.IGNORECASE)
_TYPED = str.maketrans("\u2018\u2019\u201c\u201d\u00ab\u00bb\u2013\u2014", '\'\'""""--')
_QUOTED = re.compile(r"\"[^\"\n]*\"|`[^`\n]*`|(?<![\w'])'[^'\n]*'(?!\w)")
_WHOLE_QUOTE = re.compile(r"\s*[\"'`]([^\"'`]*)[\"'`]\s*[.!]?\s*")
_ASIDE = re.compile(r"\([^()]*\)")
_HEADING = re.compile(rf"\b({_NAMES})[^\w\n]*\n\s*", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+|\n+")


def read_verdict(text: str) -> Grade | None:
    """The verdict of an answer without its reasoning; None where it has none, or contradicts
    itself."""
    bare = without_fences(text)
    if bare.startswith("{") and (found := _of_object(bare)):
        return found
    plain = _plain(bare)
    sentences = [each for each in _SENTENCE_END.split(plain) if each.strip()]
    named = [grades[-1] for each in sentences if len(set(grades := _named(each))) == 1]
    if named:
        return named[-1]
    if alone := _ALONE.match(plain):
        return _letter(alone["letter"])
    if _TIE_ALONE.match(plain):
        return "tie"
    return _of_sentences(sentences) or _of_object(text)


def opening_verdict(text: str) -> Grade | None:
    """The verdict of an answer that was cut: that of its first line, if the line is nothing else
    and is whole."""
    line, newline, _ = text.lstrip().partition("\n")
    words = re.findall(r"\w+", line)
    return read_verdict(line) if newline and len(words) <= _WORDS_OF_A_VERDICT else None


_WORDS_OF_A_VERDICT = 4  # "Final verdict: conversation B"


def _plain(text: str) -> str:
    """The text without emphasis, quotes and asides."""
    text = _HEADING.sub(r"\1: ", re.sub(r"[*_#]+", "", text.translate(_TYPED)))
    if whole := _WHOLE_QUOTE.fullmatch(text):
        text = whole[1]
    text = _single_letters_unquoted(text)
    text = _QUOTED.sub(" … ", text)
    before = ""
    while before != text:
        before, text = text, _ASIDE.sub(" ", text)
    return text


def _single_letters_unquoted(text: str) -> str:
    """A letter in quotes or brackets is the letter: Verdict: "B"."""
    return re.sub(r"[\"'`(](A|B|tie)[\"'`)]", r"\1", text, flags=re.IGNORECASE)


def _named(sentence: str) -> list[Grade]:
    found: list[Grade] = []
    for match in _NAMED.finditer(sentence):
        if match["tie"]:
            found.append("tie")
        else:
            found.append(_letter(match["double"] or match["boxed"] or match["letter"]))
    return found


def _of_sentences(sentences: list[str]) -> Grade | None:
    found: set[Grade] = set()
    for sentence in sentences:
        if _EQUAL.search(sentence):
            found.add("tie")
        elif not _DENIED.search(sentence):
            for match in _PREFERRED.finditer(sentence):
                found.add(_letter(match["is"] or match["chosen"] or match["one"]))
    return found.pop() if len(found) == 1 else None


def _of_object(text: str) -> Grade | None:
    for found in reversed(objects_in(text)):
        for key in _KEYS:
            if isinstance(found.get(key), str):
                return read_verdict(f"Verdict: {found[key]}")
    return None


def _letter(written: str) -> Grade:
    grades: dict[str, Grade] = {"a": "a", "b": "b"}
    return grades.get(written.casefold(), "tie")
