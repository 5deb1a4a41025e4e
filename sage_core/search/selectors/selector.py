"""What a selector is, and what it is asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sage_core.config.model import ModelConfig
from sage_core.config.search import SelectorConfig
from sage_core.engines.base import Engine
from sage_core.schema import Message, Showing
from sage_core.search.selectors import SELECTORS


@dataclass(frozen=True)
class Ballot:
    """A choice: the utterances so far, and distinct ways to go on from there, each of them one
    reply or several turns that start with one."""

    ballot_id: str
    history: tuple[Message, ...]
    candidates: tuple[tuple[Message, ...], ...]


@dataclass(frozen=True)
class Decision:
    """What the selector said of a ballot.

    Attributes:
        votes: points of each candidate, higher is better; -inf where it could not be scored.
        none_is_good: whether 'none is good' got more than any candidate.
        showings: what place won in each order; of an LLM only.
        notes: what went otherwise than planned.
    """

    votes: tuple[float, ...]
    none_is_good: bool = False
    showings: tuple[Showing, ...] = ()
    notes: tuple[str, ...] = ()


class Selector(Protocol):
    """Picks among candidates; never raises because of what a candidate says."""

    @property
    def may_refuse(self) -> bool:
        """Whether it can say that none is good, so that one candidate alone is a choice too."""
        ...

    @property
    def independent(self) -> bool:
        """Whether it may be asked from several threads."""
        ...

    def decide(self, ballots: Sequence[Ballot]) -> list[Decision]: ...


@dataclass(frozen=True)
class Inputs:
    """What a selector is made of.

    Attributes:
        engine: opens m0 on the engine of the settings.
        model: how a model in this process is held.
    """

    settings: SelectorConfig
    engine: Callable[[], Engine]
    model: ModelConfig
    seed: int


def _nothing_to_check(settings: SelectorConfig, options: int) -> None:
    pass


def _no_files(settings: SelectorConfig) -> str:
    return ""


@dataclass(frozen=True)
class SelectorKind:
    """What the settings name: how a selector is made.

    Attributes:
        check: raises a ``ConfigError`` for settings that cannot work, before anything starts;
            ``options`` are the most candidates of a ballot.
        files: the hash of the files that it reads, part of the key of a search; '' for none.
        scores_letters: whether it needs the probabilities of first tokens, which some servers do
            not give.
    """

    make: Callable[[Inputs], Selector]
    check: Callable[[SelectorConfig, int], None] = _nothing_to_check
    files: Callable[[SelectorConfig], str] = _no_files
    scores_letters: bool = False


def kind_of(settings: SelectorConfig) -> SelectorKind:
    """The selector that the settings name, before it is made.

    Raises:
        ConfigError: it cannot be imported, or is not one.
    """
    found = SELECTORS.load(settings.chosen)
    if isinstance(found, SelectorKind):
        return found
    if callable(found):
        return SelectorKind(found)
    raise SELECTORS.error(settings.chosen, "is not a SelectorKind, or a function that makes one")


def files_of(settings: SelectorConfig) -> str:
    """The hash of the files that the selector reads, '' for none."""
    return kind_of(settings).files(settings)


def selector_of(inputs: Inputs) -> Selector:
    """The selector that the settings name.

    Raises:
        ConfigError: it cannot be used, or cannot say that none is good and is to.
    """
    settings = inputs.settings
    made = kind_of(settings).make(inputs)
    if settings.none_is_good and not made.may_refuse:
        raise SELECTORS.error(
            settings.chosen, "cannot say that none is good; set search.selector.none_is_good=false"
        )
    return made


def reply_ballot(ballot_id: str, history: Sequence[Message], utterances: Sequence[str]) -> Ballot:
    """A choice among the next replies."""
    replies = tuple((Message("assistant", utterance),) for utterance in utterances)
    return Ballot(ballot_id, tuple(history), replies)
