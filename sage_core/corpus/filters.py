"""One named filter for each corpus rule, in the configured order.

The rules are in :mod:`sage_core.corpus.rules`; only those that the configuration names are loaded.
Those that look across dialogues are applied by ``duplicates.py``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.rules import ACROSS, RULES
from sage_core.named import Named
from sage_core.schema import Dialogue

Keeps = Callable[[Dialogue], bool]


@dataclass(frozen=True)
class Filter:
    """A rule: its name, and the test a dialogue must pass. The reason for a drop is the name."""

    name: str
    keeps: Keeps


def filters(config: CorpusConfig) -> list[Filter]:
    """The filters that ``config.rules`` names, in that order, but for those across dialogues.

    Raises:
        ConfigError: a rule cannot be imported or makes no test, or ``blocked_phrases`` is no file.
        DataError: ``blocked_phrases`` is not UTF-8 text.
    """
    return [Filter(rule.name, _test(rule.name, config)) for rule in alone(config)]


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
