"""One named filter for each corpus rule, in the configured order.

The rules are in :mod:`sage_core.corpus.rules`; only those that the configuration names are loaded.
Those that look across dialogues are applied by ``duplicates.py``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.rules import ACROSS, ASKS_ENGLISH, RULES, SCORES_ENGLISH
from sage_core.languages import is_latin
from sage_core.named import Named
from sage_core.schema import Dialogue

Keeps = Callable[[Dialogue], bool]
ENGLISH = "en"


@dataclass(frozen=True)
class Filter:
    """A rule.

    Attributes:
        name: also the reason for a drop.
        keeps: the test that a dialogue must pass; one that the rule does not apply to passes.
        applies: whether the rule is about the language of a dialogue; None = about all.
    """

    name: str
    keeps: Keeps
    applies: Keeps | None = None


def filters(config: CorpusConfig) -> list[Filter]:
    """The filters that ``config.rules`` names, in that order, but for those across dialogues.

    Raises:
        ConfigError: a rule cannot be imported or makes no test, or ``blocked_phrases`` is no file.
        DataError: ``blocked_phrases`` is not UTF-8 text.
    """
    return [_filter(rule.name, config) for rule in alone(config)]


def in_english(config: CorpusConfig) -> Keeps | None:
    """Whether a dialogue is in the language that sentiment is scored in: as ``config.language``
    says, or, where that is empty, by its script. None = all are."""
    if config.language:
        return None if config.language == ENGLISH else lambda dialogue: False
    return lambda dialogue: is_latin([message.content for message in dialogue.messages])


def alone(config: CorpusConfig) -> list[Named]:
    """The rules of :func:`filters`, none of them loaded."""
    return [rule for rule in rules_of(config) if rule.name not in ACROSS]


def across(config: CorpusConfig) -> list[str]:
    """The duplicate rules that ``config.rules`` names, in the order in which they are applied."""
    names = [rule.name for rule in rules_of(config)]
    return [name for name in ACROSS if name in names]


def rules_of(config: CorpusConfig) -> tuple[Named, ...]:
    """All rules that ``config.rules`` names, each once, none of them loaded."""
    named = [config.rules] if isinstance(config.rules, str) else config.rules
    return tuple(dict.fromkeys(RULES.resolve(*named)))


def scores_sentiment(config: CorpusConfig) -> bool:
    """Whether what is kept depends on scores of sentiment."""
    return config.span == "longest_run" or any(
        RULES.has(rule.name, SCORES_ENGLISH) for rule in rules_of(config)
    )


def _filter(name: str, config: CorpusConfig) -> Filter:
    test = _test(name, config)
    applies = None
    if RULES.has(name, SCORES_ENGLISH) or (RULES.has(name, ASKS_ENGLISH) and config.language):
        applies = in_english(config)
    if applies is None:
        return Filter(name, test)
    return Filter(name, lambda dialogue: not applies(dialogue) or test(dialogue), applies)


def _test(name: str, config: CorpusConfig) -> Keeps:
    rule = RULES.load(name)
    if not callable(rule):
        raise RULES.error(name, "is not a function of the configuration")
    keeps: Keeps = rule(config)
    if not callable(keeps):
        raise RULES.error(
            name, "does not return a function that says of a dialogue whether it is kept"
        )
    return keeps
