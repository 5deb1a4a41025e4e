"""The selector: an LLM ranks the candidates of a turn.

Departures from the paper's release: the selector sees utterances, never states; candidates are
shown in shuffled orders, since a fixed one lets position decide; and the ranking is read off the
probabilities of the candidates' letters, so that no answer can fail to parse. With several orders
the Borda counts are summed.
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from sage_core.config import SamplingConfig, SelectorConfig
from sage_core.engines.base import Engine, Request
from sage_core.errors import ConfigError
from sage_core.schema import Message

MAX_CANDIDATES = len(string.ascii_uppercase)

_INSTRUCTIONS = (
    "You choose the next reply of a companion chatbot. A good reply shows {criteria}. Answer with "
    "the letter of the best reply, and nothing else."
)
_NAMES = {"user": "Person", "assistant": "Companion"}


@dataclass(frozen=True)
class Ballot:
    """A turn to be decided: the utterances so far, and distinct candidate utterances."""

    ballot_id: str
    history: tuple[Message, ...]
    candidates: tuple[str, ...]


def borda_votes(
    ballots: Sequence[Ballot], engine: Engine, config: SelectorConfig, seed: int
) -> list[list[float]]:
    """Votes for each candidate of each ballot: its mean Borda count over the shuffled orders,
    from 0 (last in all of them) to one less than the number of candidates (first in all).

    Raises:
        ConfigError: a ballot has more candidates than there are letters.
    """
    requests, orders, options = [], [], []
    for ballot in ballots:
        check_candidates(len(ballot.candidates))
        for shuffle in range(config.shuffles):
            order = list(range(len(ballot.candidates)))
            Random(f"{seed}|{ballot.ballot_id}|{shuffle}").shuffle(order)
            orders.append(order)
            options.append(list(string.ascii_uppercase[: len(order)]))
            requests.append(
                Request(
                    request_id=f"select/{ballot.ballot_id}/{shuffle}",
                    messages=_prompt(ballot, order, config),
                    sampling=SamplingConfig(
                        temperature=0, top_k=0, repetition_penalty=1, max_new_tokens=1
                    ),
                    seed=seed,
                )
            )
    answers = iter(zip(orders, engine.choose(requests, options), strict=True))
    return [
        _mean_borda(len(ballot.candidates), [next(answers) for _ in range(config.shuffles)])
        for ballot in ballots
    ]


def check_candidates(number: int) -> None:
    """Check that the selector has a letter for each candidate.

    Raises:
        ConfigError: it has not.
    """
    if number > MAX_CANDIDATES:
        raise ConfigError(
            f"search.candidates = {number} is more than the selector has letters for; choose at "
            f"most {MAX_CANDIDATES}"
        )


def _mean_borda(
    candidates: int, rankings: Sequence[tuple[Sequence[int], Sequence[float]]]
) -> list[float]:
    votes = [0.0] * candidates
    for order, log_probabilities in rankings:
        ranked = sorted(range(candidates), key=lambda place: (-log_probabilities[place], place))
        for rank, place in enumerate(ranked):
            votes[order[place]] += (candidates - 1 - rank) / len(rankings)
    return votes


def _prompt(ballot: Ballot, order: Sequence[int], config: SelectorConfig) -> tuple[Message, ...]:
    conversation = "\n".join(f"{_NAMES[turn.role]}: {turn.content}" for turn in ballot.history)
    replies = "\n".join(
        f"{letter}. {ballot.candidates[index]}"
        for letter, index in zip(string.ascii_uppercase, order, strict=False)
    )
    return (
        Message("system", _INSTRUCTIONS.format(criteria=", ".join(config.criteria))),
        Message("user", f"{conversation}\n\nReplies:\n{replies}\n\nThe letter of the best reply:"),
    )
