"""What of a search can be known to fail before it starts."""

from sage_core.config.search import SearchConfig
from sage_core.engines import opening
from sage_core.search.selectors.selector import kind_of
from sage_core.search.strategies.strategy import strategy_of


def check_search(config: SearchConfig) -> None:
    """Check the strategy and the selector that the settings name.

    Raises:
        ConfigError: one of them cannot be used, or there are too many candidates for the selector.
        EngineError: the selector's server gives no probabilities; one small request finds it out.
    """
    options = strategy_of(config).options
    selector = kind_of(config.selector)
    selector.check(config.selector, options)
    if selector.scores_letters:
        opening.check_scoring(config.selector.engine)
