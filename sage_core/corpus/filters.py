"""The corpus rules: one named filter each, which keeps a dialogue or drops it with a reason.

Cheap rules come first and a dialogue stops at its first failing rule; since every rule looks at
the dialogue alone, the kept set does not depend on the order.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from sage_core.config import CorpusConfig
from sage_core.corpus.sentiment import analyser
from sage_core.errors import ConfigError
from sage_core.schema import Dialogue, with_roles

Sentiment = Callable[[str], float]
PAPER_RULES = ("turns", "question", "words", "sentiment")


@dataclass(frozen=True)
class Filter:
    """A rule: its name, and the test a dialogue must pass. The reason for a drop is the name."""

    name: str
    keeps: Callable[[Dialogue], bool]


def filters(config: CorpusConfig, sentiment: Sentiment | None = None) -> list[Filter]:
    """The filters that ``config.rules`` names, in that order.

    Raises:
        ConfigError: a rule of that name does not exist.
    """
    compound = sentiment or analyser()
    known = {
        "turns": lambda dialogue: has_turns(dialogue, config.min_turns),
        "question": asks_question,
        "words": lambda dialogue: mean_words(dialogue) > config.min_mean_words,
        "sentiment": lambda dialogue: all(
            compound(message.content) > config.min_sentiment for message in dialogue.messages
        ),
    }
    names = PAPER_RULES if config.rules == "paper" else config.rules
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            f"corpus.rules names {unknown}, which do not exist; choose 'paper' or a list from "
            f"{sorted(known)}"
        )
    return [Filter(name, known[name]) for name in names]


def has_turns(dialogue: Dialogue, min_turns: int) -> bool:
    """At least ``min_turns`` turns (paper: more than four)."""
    return len(dialogue.messages) >= min_turns


def asks_question(dialogue: Dialogue) -> bool:
    """At least one turn ends in a question mark, trailing white space aside."""
    return any(message.content.rstrip().endswith("?") for message in dialogue.messages)


def mean_words(dialogue: Dialogue) -> float:
    """Mean number of words per turn; words are ``str.split()``."""
    words = [len(message.content.split()) for message in dialogue.messages]
    return sum(words) / len(words) if words else 0.0


def longest_run(
    dialogue: Dialogue, min_sentiment: float, min_turns: int, sentiment: Sentiment | None = None
) -> Dialogue | None:
    """The first longest run of consecutive turns over ``min_sentiment``, as a dialogue.

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
    return replace(
        dialogue, messages=with_roles(m.content for m in messages[best.start : best.stop])
    )
