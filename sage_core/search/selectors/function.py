"""A Python function of the user's as selector."""

import inspect
from typing import Any

from sage_core.config.search import SelectorConfig
from sage_core.errors import ConfigError
from sage_core.named import load
from sage_core.search.selectors.scores import Score, ScoreSelector
from sage_core.search.selectors.selector import Inputs, Selector, SelectorKind


def load_function(name: str) -> Score:
    """The function ``package.module:name`` as a score of (utterance, history).

    Raises:
        ConfigError: it cannot be imported, or takes no one or two arguments.
    """
    try:
        found: Any = load(name)
        arguments = _positional(found)
    except (ConfigError, TypeError, ValueError) as error:
        raise ConfigError(
            f"search.selector.function = '{name}' cannot be used: {error}; name a function that "
            "can be imported here, as package.module:name"
        ) from None
    if arguments == 1:
        return lambda utterance, history: found(utterance)
    if arguments == 2:
        function: Score = found
        return function
    raise ConfigError(
        f"search.selector.function = '{name}' takes {arguments} arguments; it is called with the "
        "utterance, or with the utterance and the history"
    )


def _positional(function: Any) -> int:
    """How many arguments it is given: those without a default, and a second one called history."""
    parameters = list(inspect.signature(function).parameters.values())
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = [parameter for parameter in parameters if parameter.kind in kinds]
    required = [parameter for parameter in taken if parameter.default is inspect.Parameter.empty]
    wants_history = len(taken) > 1 and taken[1].name == "history"
    return max(len(required), 2 if wants_history else 1) if taken else 0


def _made(inputs: Inputs) -> Selector:
    return ScoreSelector(load_function(inputs.settings.function), independent=True)


def _check(settings: SelectorConfig, options: int) -> None:
    load_function(settings.function)


SELECTOR = SelectorKind(_made, check=_check)
