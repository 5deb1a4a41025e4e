"""From the configuration of a search to its strategy and its selector."""

from collections.abc import Callable

from sage_core.config.search import SearchConfig, SelectorConfig
from sage_core.engines.base import Engine
from sage_core.search import scorers
from sage_core.search.selector import LLMSelector, RandomSelector, Selector, check_options
from sage_core.search.strategies import BestOfNDialogue, Greedy, Strategy, Tree


def strategy_of(config: SearchConfig) -> Strategy:
    """The strategy that the settings name."""
    redraws = config.selector.redraws if config.selector.none_is_good else 0
    if config.strategy == "best_of_n_dialogue":
        return BestOfNDialogue(config.candidates)
    if config.strategy == "tree":
        return Tree(config.candidates, config.tree, redraws)
    return Greedy(config.candidates, redraws)


def selector_of(
    config: SelectorConfig, engine: Callable[[], Engine], seed: int, device: str
) -> Selector:
    """The selector that the settings name; ``engine`` makes the one that ranks or scores,
    ``device`` is the reward model's.

    Raises:
        ConfigError: the function or the reward model cannot be used.
    """
    if config.random:
        return RandomSelector(seed)
    if config.function:
        return scorers.ScoreSelector(scorers.load_function(config.function), independent=True)
    if config.reward_model:
        score = scorers.load_reward_model(config.reward_model, device)
        return scorers.ScoreSelector(score, independent=False)
    if config.relevance:
        return scorers.RelevanceSelector(engine(), seed, config.length_penalty)
    return LLMSelector(engine(), config, seed)


def check_search(config: SearchConfig) -> None:
    """Check what of a search can be known to fail before it starts.

    Raises:
        ConfigError: too many candidates, no such function, or no such reward model.
    """
    if config.selector.function:
        scorers.load_function(config.selector.function)
    elif config.selector.reward_model:
        scorers.check_reward_model(config.selector.reward_model)
    elif config.selector.is_llm:
        widest = config.candidates
        if config.strategy == "tree":
            widest = max(config.tree.width, config.tree.wordings)
        check_options(widest + config.selector.none_is_good)
