"""The part of a dialogue that is kept (``corpus.span=longest_run``)."""

from collections.abc import Callable
from dataclasses import replace

from sage_core.corpus.sentiment import analyser
from sage_core.schema import Dialogue, with_roles


def longest_run(
    dialogue: Dialogue,
    min_sentiment: float,
    min_turns: int,
    sentiment: Callable[[str], float] | None = None,
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
