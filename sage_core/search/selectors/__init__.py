"""Who picks the best of several candidates: each module is one selector.

A name stands for a :class:`sage_core.search.selectors.selector.SelectorKind`, or for a function (or
class) that makes the selector of its inputs. To add one: a module here, and its line in the table.
"""

from sage_core.named import Registry

ASKS_NO_ENGINE = "asks no engine"
NEVER_REFUSES = "never refuses"
"""The traits of selectors that do not ask ``search.selector.engine``, or cannot say that none is
good."""

SELECTORS = Registry(
    setting="search.selector.name",
    what="selector",
    table={
        "llm": "sage_core.search.selectors.llm:SELECTOR",
        "relevance": "sage_core.search.selectors.relevance:SELECTOR",
        "function": "sage_core.search.selectors.function:SELECTOR",
        "reward_model": "sage_core.search.selectors.reward_model:SELECTOR",
        "random": "sage_core.search.selectors.chance:SELECTOR",
    },
    traits={
        "relevance": (NEVER_REFUSES,),
        "function": (ASKS_NO_ENGINE, NEVER_REFUSES),
        "reward_model": (ASKS_NO_ENGINE, NEVER_REFUSES),
        "random": (ASKS_NO_ENGINE, NEVER_REFUSES),
    },
)
