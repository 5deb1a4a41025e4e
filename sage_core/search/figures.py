"""What a search was like: why its dialogues ended, what was noted, its selector's position bias."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from sage_core.evaluation.metrics import Mean, Rate
from sage_core.schema import Showing, Trajectory


@dataclass(frozen=True)
class PositionBias:
    """The place of the option that the selector ranked first.

    Orders are drawn at random, so a selector that looks at content only puts every place first
    equally often, and its showings are independent draws of a place.

    Attributes:
        places: for each place, the share of the decided showings that had it in which it won.
        expected: for each place, that share without bias, the mean of 1 / options.
        p_value: chi-squared test of the wins against those expected; None without showings.
        undecided: showings without one winner: alike, or not to be read.
    """

    places: tuple[Rate, ...]
    expected: tuple[float, ...]
    p_value: float | None
    undecided: Rate


@dataclass(frozen=True)
class SearchFigures:
    """Figures of one search, by the model that searched.

    Attributes:
        ended: dialogues by the reason of their end (:data:`sage_core.schema.ENDINGS`).
        notes: turns by what was noted of them, the detail left away.
        left_out: turns whose speaker's context had no room for all of the dialogue.
        turns: turns per dialogue.
        generated_tokens: of all dialogues.
        position_bias: of the LLM that selected.
    """

    model: str
    dialogues: int
    ended: dict[str, int]
    notes: dict[str, int]
    left_out: int
    turns: Mean
    generated_tokens: int
    position_bias: PositionBias


def search_figures(
    model: str, trajectories: Sequence[Trajectory], showings: Sequence[Showing]
) -> SearchFigures:
    """Compute the figures of one search."""
    ended = Counter(_reason(trajectory.ended) for trajectory in trajectories)
    turns = [turn for trajectory in trajectories for turn in trajectory.turns]
    # A turn counts once for a reason, however often its details name it.
    notes = Counter(reason for turn in turns for reason in dict.fromkeys(map(_reason, turn.notes)))
    return SearchFigures(
        model=model,
        dialogues=len(trajectories),
        ended=dict(sorted(ended.items(), key=lambda item: (-item[1], item[0]))),
        notes=dict(sorted(notes.items(), key=lambda item: (-item[1], item[0]))),
        left_out=sum(turn.left_out > 0 for turn in turns),
        turns=Mean.of([len(trajectory.turns) for trajectory in trajectories]),
        generated_tokens=sum(trajectory.generated_tokens for trajectory in trajectories),
        position_bias=position_bias(showings),
    )


def position_bias(showings: Sequence[Showing]) -> PositionBias:
    """Measure which place wins, over all showings of a search."""
    decided = [showing for showing in showings if showing.place is not None]
    wins = Counter(showing.place for showing in decided)
    places, expected = [], []
    for place in range(max((showing.options for showing in decided), default=0)):
        had = [showing for showing in decided if showing.options > place]
        places.append(Rate.of(wins[place], len(had)))
        expected.append(sum(1 / showing.options for showing in had))
    p_value = None
    if len(places) > 1:
        p_value = float(stats.chisquare([rate.hits for rate in places], expected).pvalue)
    return PositionBias(
        places=tuple(places),
        expected=tuple(wanted / rate.n for wanted, rate in zip(expected, places, strict=True)),
        p_value=p_value,
        undecided=Rate.of(len(showings) - len(decided), len(showings)),
    )


def _reason(note: str) -> str:
    return note.partition(":")[0]
