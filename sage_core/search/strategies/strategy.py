"""What every strategy is made of: who plays, how replies are drawn, and how a choice is decided."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sage_core.config.conversation import SelfPlayConfig
from sage_core.config.search import SearchConfig
from sage_core.engines.answered import answered
from sage_core.engines.base import Completion, Request
from sage_core.errors import ItemError
from sage_core.schema import Candidate
from sage_core.search.dialogue import Dialogue, Speaker, ending
from sage_core.search.selectors.selector import Ballot, Decision, Selector
from sage_core.search.strategies import STRATEGIES


@dataclass(frozen=True)
class Players:
    """Who talks, under what settings, and who selects; without a selector the first of the
    candidates is taken."""

    agent: Speaker
    user: Speaker
    config: SelfPlayConfig
    seed: int
    selector: Selector | None = None


class Strategy(ABC):
    """How a search spends its draws. The base of all strategies, which add replies; the others of
    its members are those of a strategy that plays one dialogue from each situation."""

    @property
    @abstractmethod
    def options(self) -> int:
        """The most candidates that the selector is asked to compare at once."""

    @property
    def lines(self) -> int:
        """Dialogues that are played from each situation."""
        return 1

    @abstractmethod
    def reply(self, dialogues: Sequence[Dialogue], players: Players) -> None:
        """Add the agent's turn to each dialogue, or end it."""

    def pick(self, situations: Sequence[Sequence[Dialogue]], players: Players) -> list[Dialogue]:
        """One dialogue for each situation, of its lines."""
        return [lines[0] for lines in situations]


def strategy_of(config: SearchConfig) -> Strategy:
    """The strategy that the settings name.

    Raises:
        ConfigError: it cannot be imported, or is not one.
    """
    make = STRATEGIES.load(config.strategy)
    if not callable(make):
        raise STRATEGIES.error(config.strategy, "is not a function of the search's settings")
    made = make(config)
    if not isinstance(made, Strategy):
        raise STRATEGIES.error(config.strategy, "does not make a Strategy")
    return made


def redraws_of(config: SearchConfig) -> int:
    """How often candidates are drawn anew where the selector finds none good."""
    return config.selector.redraws if config.selector.none_is_good else 0


def finished(cut: Sequence[bool]) -> list[int]:
    """The places of the candidates that are compared: those that were not cut, or all where all
    were."""
    return [at for at, each in enumerate(cut) if not each] or list(range(len(cut)))


def until_good(
    dialogues: Sequence[Dialogue],
    redraws: int,
    attempt: Callable[[Sequence[Dialogue], int], list[Dialogue]],
) -> None:
    """Try until the selector finds a candidate good; ``attempt`` gives those it found none for."""
    open_ = list(dialogues)
    for number in range(redraws + 1):
        open_ = attempt(open_, number) if open_ else []
    for dialogue in open_:
        dialogue.ended = f"none_good: {redraws} redraws"


def draw(
    dialogues: Sequence[Dialogue], requests: Sequence[Request], players: Players
) -> dict[str, list[Completion]]:
    """The completions by line; a dialogue whose request fails ends."""
    drawn = {}
    answers = answered(players.agent.engine.generate, requests)
    for dialogue, answer in zip(dialogues, answers, strict=True):
        if isinstance(answer, ItemError):
            dialogue.ended = ending(answer)
        else:
            dialogue.count(answer)
            drawn[dialogue.line] = answer
    return drawn


def decide(
    choices: Sequence[tuple[Dialogue, Ballot]], players: Players, *, refusing: bool = True
) -> list[tuple[Ballot, Decision]]:
    """The decision on each ballot; where there is no choice, nobody is asked. What the selector was
    shown is kept with the dialogue."""
    selector = players.selector
    alone = 1 if refusing and selector is not None and selector.may_refuse else 2
    asked = [
        place for place, (_, ballot) in enumerate(choices)
        if selector is not None and len(ballot.candidates) >= alone
    ]  # fmt: skip
    decided: dict[int, Decision] = {}
    if selector is not None and asked:
        answers = selector.decide([choices[place][1] for place in asked])
        decided = dict(zip(asked, answers, strict=True))
    decisions = []
    for place, (dialogue, ballot) in enumerate(choices):
        decision = decided.get(place, Decision((0.0,) * len(ballot.candidates)))
        dialogue.showings += decision.showings
        decisions.append((ballot, decision if refusing else replace(decision, none_is_good=False)))
    return decisions


def turn_notes(
    drawn: Sequence[Completion],
    found: Sequence[Candidate],
    attempt: int,
    decision: Decision,
    asked: int,
) -> tuple[str, ...]:
    """What a reader of the turn should know of how it came about."""
    notes = [f"redrawn: {attempt}"] if attempt else []
    if asked > 1 and len(drawn) > 1 and len(found) == 1:
        notes.append("no_choice: all candidates alike or empty")
    return (*notes, *decision.notes)
