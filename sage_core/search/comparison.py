"""Strategies compared at the same number of generated tokens.

A strategy that spends more on a dialogue gets fewer situations: each plays the situations in order
until the tokens of the cheapest are spent. So the table answers both questions that a budget asks:
how many dialogues it buys, and whether they are better than greedy's from the same situations.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sage_core.config.search import SearchConfig
from sage_core.errors import DataError
from sage_core.evaluation.metrics import Mean, Rate, model_metrics
from sage_core.evaluation.winrate import PairSummary
from sage_core.schema import Situation
from sage_core.search.figures import search_figures
from sage_core.search.selfplay import Found, self_play
from sage_core.search.strategies import NEEDS_STATES, STRATEGIES
from sage_core.search.strategies.strategy import Players, Strategy, strategy_of
from sage_core.storage import shards

BASELINE = "greedy"


@dataclass(frozen=True)
class StrategyRow:
    """A line of the table.

    Attributes:
        dialogues: how many the budget bought; ``generated_tokens`` were spent on them.
        ended: by reason.
        against_greedy: a judge's verdicts on the shared situations, ``model_a`` being greedy; None
            for greedy itself.
    """

    strategy: str
    dialogues: int
    generated_tokens: int
    turns: Mean
    reply_words: Mean
    questions: Rate
    distinct_2: float | None
    ended: dict[str, int]
    against_greedy: PairSummary | None


def all_strategies(config: SearchConfig, *, states: bool) -> dict[str, Strategy]:
    """All that there are, and one of the user's own that the settings name, by name; without those
    that search among states where the agent has none."""
    names = dict.fromkeys((*STRATEGIES.names, config.strategy))
    return {
        name: strategy_of(config.model_copy(update={"strategy": name}))
        for name in names
        if states or not STRATEGIES.has(name, NEEDS_STATES)
    }


def play_strategies(
    situations: Sequence[Situation],
    players: Players,
    strategies: Mapping[str, Strategy],
    batch: int,
    *,
    work: Path | None = None,
    on_progress: Callable[[int], None] = lambda count: None,
) -> dict[str, list[Found]]:
    """What each strategy finds for the tokens that the cheapest one spends on all situations;
    ``batch`` of them are played together.

    Raises:
        DataError: the budget does not buy one dialogue of some strategy.
    """
    found: dict[str, list[Found]] = {}
    budget = math.inf
    for name, strategy in strategies.items():
        played: list[Found] = []
        for part in shards(situations, batch):
            if _spent(played) >= budget:
                break
            played += self_play(
                part,
                players,
                strategy,
                work=work / name if work else None,
                on_progress=on_progress,
            )
        found[name] = played
        budget = min(budget, _spent(played))
    return {name: _within(name, played, budget) for name, played in found.items()}


def strategy_rows(
    found: Mapping[str, Sequence[Found]], verdicts: Mapping[str, PairSummary], *, states: bool
) -> list[StrategyRow]:
    """The table; ``verdicts`` are by the strategy that was judged against greedy."""
    rows = []
    for name, played in found.items():
        trajectories = [each.trajectory for each in played]
        metrics = model_metrics(name, trajectories, states=states)
        figures = search_figures(name, trajectories, [])
        rows.append(
            StrategyRow(
                strategy=name,
                dialogues=len(played),
                generated_tokens=figures.generated_tokens,
                turns=figures.turns,
                reply_words=metrics.reply_words,
                questions=metrics.questions,
                distinct_2=metrics.distinct_2,
                ended=figures.ended,
                against_greedy=verdicts.get(name),
            )
        )
    return rows


def _spent(played: Sequence[Found]) -> int:
    return sum(each.trajectory.generated_tokens for each in played)


def _within(name: str, played: Sequence[Found], budget: float) -> list[Found]:
    """The first dialogues, as many as the budget buys."""
    kept = list(played)
    while _spent(kept) > budget:
        kept.pop()
    if not kept:
        raise DataError(
            f"{budget:.0f} tokens, which the cheapest strategy spends on all situations, do not "
            f"buy one dialogue of '{name}'; raise search.situations, or lower search.candidates"
        )
    return kept
