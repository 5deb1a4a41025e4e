"""The corpus rules: one named filter each, which keeps a dialogue or drops it with a reason.

The paper's four rules (section 4.1), the rules of DialoGPT's extraction that it builds on (Zhang et
al. 2020, section 2), and two against duplicates. In the named sets cheap rules come first, and a
dialogue stops at its first failing rule; since these rules look at one dialogue alone, the kept set
does not depend on their order. The duplicate rules look across dialogues: they come last by
definition, over what the others keep (``duplicates.py``).

Departures from DialoGPT, which judges a pair of source and target: here the whole dialogue is
judged, so ``max_words`` counts all of its words, ``frequent_word`` asks for one in any turn (the
rule stands for "is it English"), and ``repeated_word`` and ``offensive`` look at every turn.
"""

import re
import string
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import groupby
from operator import eq

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus import offensive
from sage_core.corpus.sentiment import analyser
from sage_core.errors import ConfigError
from sage_core.packaged import packaged
from sage_core.schema import Dialogue, with_roles

Sentiment = Callable[[str], float]
Keeps = Callable[[Dialogue], bool]

PAPER_RULES = ("turns", "question", "words", "sentiment")
DIALOGPT_RULES = (
    "subreddit",
    "frequent_word",
    "markup",
    "url",
    "max_words",
    "offensive",
    "repeated_word",
)
DUPLICATE_RULES = ("exact_duplicate", "near_duplicate")
RULE_SETS = {
    "paper": PAPER_RULES,
    "dialogpt": DIALOGPT_RULES,
    "all": (
        "subreddit",
        "turns",
        "question",
        "frequent_word",
        "markup",
        "url",
        "words",
        "max_words",
        "offensive",
        "repeated_word",
        "sentiment",
        *DUPLICATE_RULES,
    ),
}

FREQUENT_WORDS = (
    "the be to of and a in that have I it for not on with he as you do at this but his by from "
    "they we say her she or an will my one all would there their what so up out if about who get "
    "which go me"
)
"""The 50 most frequent lemmas of the Oxford English Corpus, in order (Oxford Dictionaries, "The
OEC: Facts about the language"). Matched as they stand here, not in their other forms."""

_FREQUENT = re.compile(rf"\b(?:{'|'.join(FREQUENT_WORDS.lower().split())})\b")
_URL = re.compile(r"https?://|\bwww\.\w")
_PUNCTUATION = string.punctuation + "“”‘’«»…–—¡¿"  # noqa: RUF001


@dataclass(frozen=True)
class Filter:
    """A rule: its name, and the test a dialogue must pass. The reason for a drop is the name."""

    name: str
    keeps: Keeps


def filters(config: CorpusConfig, sentiment: Sentiment | None = None) -> list[Filter]:
    """The filters that ``config.rules`` names, in that order, but for those across dialogues.

    Raises:
        ConfigError: a rule of that name does not exist, or ``blocked_phrases`` is no file.
        DataError: ``blocked_phrases`` is not UTF-8 text.
    """
    names = [name for name in _names(config) if name not in DUPLICATE_RULES]
    return [Filter(name, _RULES[name](config, sentiment)) for name in names]


def across(config: CorpusConfig) -> list[str]:
    """The duplicate rules that ``config.rules`` names, in the order in which they are applied.

    Raises:
        ConfigError: a rule of that name does not exist.
    """
    names = _names(config)
    return [name for name in DUPLICATE_RULES if name in names]


def has_turns(dialogue: Dialogue, min_turns: int) -> bool:
    """At least ``min_turns`` turns (paper: more than four)."""
    return len(dialogue.messages) >= min_turns


def asks_question(dialogue: Dialogue) -> bool:
    """At least one turn ends in a question mark, trailing white space aside."""
    return any(message.content.rstrip().endswith("?") for message in dialogue.messages)


def mean_words(dialogue: Dialogue) -> float:
    """Mean number of words per turn; words are ``str.split()``."""
    return _count_words(dialogue) / len(dialogue.messages) if dialogue.messages else 0.0


def has_url(dialogue: Dialogue) -> bool:
    """A turn has ``http://``, ``https://`` or ``www.``; bare domain names are not looked for."""
    texts = (message.content.lower() for message in dialogue.messages)
    return any(("http" in text or "www." in text) and _URL.search(text) for text in texts)


def has_markup(dialogue: Dialogue) -> bool:
    """A turn has a square bracket, as links and tags do."""
    return any("[" in message.content or "]" in message.content for message in dialogue.messages)


def has_frequent_word(dialogue: Dialogue) -> bool:
    """A turn has one of :data:`FREQUENT_WORDS`, in any case."""
    return any(_FREQUENT.search(message.content.lower()) for message in dialogue.messages)


def most_repeats(text: str) -> int:
    """How often the most repeated word stands in a row; 0 for a text without words.

    Words are compared casefolded and without punctuation at their ends; punctuation that stands
    alone is no word, and does not end a row.
    """
    pieces = (piece.strip(_PUNCTUATION) for piece in text.casefold().split())
    words = [word for word in pieces if word]
    if not any(map(eq, words, words[1:])):
        return min(len(words), 1)
    return max(sum(1 for _ in row) for _, row in groupby(words))


def longest_run(
    dialogue: Dialogue, min_sentiment: float, min_turns: int, sentiment: Sentiment | None = None
) -> Dialogue | None:
    """The first longest run of consecutive turns over ``min_sentiment``, as a dialogue.

    The run keeps the roles of a dialogue that has them; in one between two people, whoever speaks
    first in the run is taken as the user.

    Runs shorter than ``min_turns`` cannot pass the other rules, so None stands for all of them:
    of each window of that many turns it is then enough to score one turn that fails.
    """
    compound = sentiment or analyser()
    messages = dialogue.messages
    positive: dict[int, bool] = {}

    def is_positive(index: int) -> bool:
        if index not in positive:
            positive[index] = compound(messages[index].content) > min_sentiment
        return positive[index]

    best = range(0)
    start = 0
    while start + max(min_turns, len(best) + 1) <= len(messages):
        # A run that beats the best must cover this whole window: look at its far end first.
        window = range(start, start + max(min_turns, len(best) + 1))
        failing = next((index for index in reversed(window) if not is_positive(index)), None)
        if failing is not None:
            start = failing + 1
            continue
        end = window.stop
        while end < len(messages) and is_positive(end):
            end += 1
        best = range(start, end)
        start = end + 1
    if not best:
        return None
    run = messages[best.start : best.stop]
    return replace(
        dialogue, messages=run if dialogue.has_roles else with_roles(m.content for m in run)
    )


def _names(config: CorpusConfig) -> tuple[str, ...]:
    if isinstance(config.rules, str):
        return RULE_SETS[config.rules]
    choices = (*_RULES, *DUPLICATE_RULES)
    if unknown := [name for name in config.rules if name not in choices]:
        raise ConfigError(
            f"corpus.rules names {unknown}, which do not exist; choose one of "
            f"{', '.join(RULE_SETS)}, or a list from {sorted(choices)}"
        )
    return config.rules


def _count_words(dialogue: Dialogue) -> int:
    return sum(len(message.content.split()) for message in dialogue.messages)


def _sentiment(config: CorpusConfig, sentiment: Sentiment | None) -> Keeps:
    compound = sentiment or analyser()
    return lambda dialogue: all(
        compound(message.content) > config.min_sentiment for message in dialogue.messages
    )


def _repeated_word(config: CorpusConfig, sentiment: Sentiment | None) -> Keeps:
    return lambda dialogue: all(
        most_repeats(message.content) <= config.max_repeats for message in dialogue.messages
    )


def _offensive(config: CorpusConfig, sentiment: Sentiment | None) -> Keeps:
    path = config.blocked_phrases
    is_offensive = _matcher(tuple(offensive.read_phrases(path)) if path else ())
    return lambda dialogue: not any(is_offensive(message.content) for message in dialogue.messages)


def _subreddit(config: CorpusConfig, sentiment: Sentiment | None) -> Keeps:
    lines = packaged("data/blocked_subreddits.txt").splitlines()
    listed = [line for line in lines if not line.startswith("#")]
    blocked = frozenset(map(_subreddit_name, (*listed, *config.blocked_sources)))
    return lambda dialogue: _subreddit_name(dialogue.source) not in blocked


def _subreddit_name(source: str) -> str:
    return source.strip().casefold().removeprefix("/").removeprefix("r/")


@lru_cache(maxsize=4)
def _matcher(extra: tuple[str, ...]) -> Callable[[str], bool]:
    return offensive.matcher([*offensive.packaged(), *extra])


_RULES: dict[str, Callable[[CorpusConfig, Sentiment | None], Keeps]] = {
    "turns": lambda config, _: partial(has_turns, min_turns=config.min_turns),
    "question": lambda config, _: asks_question,
    "words": lambda config, _: lambda dialogue: mean_words(dialogue) > config.min_mean_words,
    "sentiment": _sentiment,
    "subreddit": _subreddit,
    "markup": lambda config, _: lambda dialogue: not has_markup(dialogue),
    "max_words": lambda config, _: lambda dialogue: _count_words(dialogue) <= config.max_words,
    "frequent_word": lambda config, _: has_frequent_word,
    "url": lambda config, _: lambda dialogue: not has_url(dialogue),
    "offensive": _offensive,
    "repeated_word": _repeated_word,
}
