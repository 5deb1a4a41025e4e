"""Topics as words of the dialogue: the most telling content words and word pairs of an utterance.

No tagger is at hand (NLTK's data would have to be downloaded), so what is a noun is guessed from
the word before: a word after a determiner, a possessive or a preposition counts double, one after a
pronoun, "to" or an auxiliary is taken for a verb and left out, and so are stop words, words with a
sentiment of their own in VADER's lexicon, which say how something is and not what, and the filler
of chat. Candidates are ranked by TF-IDF over all utterances.
"""

import re
from collections.abc import Sequence
from functools import cache

_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
_BREAK = re.compile(r"[^\w\s'-]+|\s-+\s|\n")
_POSSESSIVE = re.compile(r"'s$")
_DRAWN_OUT = re.compile(r"(.)\1\1|^(ha|he|hi)+h?$")  # oooh, hahaha
_APOSTROPHE = chr(0x2019)
_SHORTEST = 3  # letters


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_BEFORE_NOUN = _set("""
    a an the my your his her its our their this that these those some any no every each another
    about of in on at with for from into over under near like
""")
_BEFORE_VERB = _set("""
    i you we they he she it who to not don't doesn't didn't can can't could couldn't will won't
    would wouldn't should shouldn't must may might do does did let's i'll you'll we'll they'll
    i'd you'd we'd they'd i've you've we've they've be been am are is was were i'm you're we're
    they're he's she's it's that's have has had having just really also never always
""")
# Frequent in chat and about nothing; sklearn's stop words lack them.
_FILLER = _set("""
    able absolutely actually ago agree already also amen anyways awhile basically bit brand
    bunch called came case chance come comes coming course cuz day days definitely depends
    different does doing done dope easy especially exactly exciting extremely far feel feeling
    feels felt gets getting give gives giving goes going gonna got gotcha gotta guess guy guys
    haha hahaha hear heard heck hello hey hmm hows idea idk imagine instead just kind kinda
    kinds knew know knows let lets like liked likes little lol long look looking looks lot lots
    made make makes making man mean means mind minute moment nah name near need needs new nope
    odd oh okay old omg ones past people personally pretty probably quite real really reason
    right said say saying says seen sense seriously shall simply since small soon sort sorts
    sound sounds start started stuff super sure taking talk talking tell than thank thanks thing
    things think thinking though thought time times today tomorrow ton tonight tons took totally
    tried true try trying type types ugh use used using usually wait wanna want wanted wants way
    ways went whatever wonder wondering wow yay yea yeah year years yep yes yesterday
""")


def extract(dialogues: Sequence[Sequence[str]], most: int) -> list[tuple[str, ...]]:
    """At most ``most`` topics for every utterance of ``dialogues``, in one list; an utterance that
    has no candidate takes the topics of the turn before it.

    Topics are in lower case, are in the utterance word for word, and share no word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes seconds to import

    utterances = [utterance for dialogue in dialogues for utterance in dialogue]
    found = [_candidates(utterance) for utterance in utterances]
    if not any(found):
        return [()] * len(utterances)
    vectorizer = TfidfVectorizer(analyzer=lambda candidates: candidates, norm=None)
    weights = vectorizer.fit_transform(found).tocsr()
    places = vectorizer.vocabulary_
    topics: list[tuple[str, ...]] = []
    row = 0
    for dialogue in dialogues:
        before: tuple[str, ...] = ()
        for _ in dialogue:
            weight = {each: float(weights[row, places[each]]) for each in found[row]}
            # Equal ones in the order of the utterance.
            ranked = sorted(weight, key=lambda each: -weight[each])
            before = _without_shared_words(ranked, most) or before
            topics.append(before)
            row += 1
    return topics


def words_of(text: str) -> frozenset[str]:
    """The words of a text, folded, with the ends of possessives cut off."""
    return frozenset(_POSSESSIVE.sub("", word) for word in _WORD.findall(_folded(text)))


def stand_in(topics: Sequence[str], *texts: str) -> tuple[str, ...]:
    """Those topics that share a word, other than a stop word, with one of the texts."""
    said = frozenset().union(*(words_of(text) for text in texts)) - _left_out()
    return tuple(topic for topic in topics if words_of(topic) & said)


def _candidates(utterance: str) -> list[str]:
    """Words and pairs of neighbouring words that may be topics, those that are likely nouns twice;
    a pair is there on top of its words, so that it wins where both are as rare."""
    found: list[str] = []
    for part in _BREAK.split(_folded(utterance)):
        words = _WORD.findall(part)
        run: list[str] = []  # candidates that follow each other
        for number, written in enumerate(words):
            word = _POSSESSIVE.sub("", written)
            before = words[number - 1] if number else ""
            if not _is_content(word) or (before in _BEFORE_VERB and not run):
                run = []
                continue
            after_noun_mark = before in _BEFORE_NOUN or bool(run)
            found += [word] * (2 if after_noun_mark else 1)
            if run and written == word != run[-1] and not word.endswith("ed"):
                found += [f"{run[-1]} {word}"] * 3
            run = [word] if written == word else []
    return found


def _is_content(word: str) -> bool:
    return (
        len(word) >= _SHORTEST
        and word not in _left_out()
        and "'" not in word
        and not word.endswith("ly")
        and not _DRAWN_OUT.search(word)
    )


def _folded(text: str) -> str:
    return text.replace(_APOSTROPHE, "'").casefold()


@cache
def _left_out() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    from sage_core.corpus.sentiment import lexicon

    return frozenset(ENGLISH_STOP_WORDS) | _FILLER | frozenset(lexicon()) | _BEFORE_VERB


def _without_shared_words(ranked: Sequence[str], most: int) -> tuple[str, ...]:
    topics: list[str] = []
    used: set[str] = set()
    for topic in ranked:
        words = set(topic.split())
        if len(topics) < most and not words & used:
            topics.append(topic)
            used |= words
    return tuple(topics)
