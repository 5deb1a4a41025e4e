"""Chance in place of a selector: a baseline."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from sage_core.search.selectors.selector import Ballot, Decision, Inputs, Selector, SelectorKind


@dataclass(frozen=True)
class RandomSelector:
    """Chance: the baseline that any selector has to beat."""

    seed: int
    may_refuse: bool = False
    independent: bool = True

    def decide(self, ballots: Sequence[Ballot]) -> list[Decision]:
        decisions = []
        for ballot in ballots:
            draw = Random(f"{self.seed}|{ballot.ballot_id}")
            decisions.append(Decision(tuple(draw.random() for _ in ballot.candidates)))
        return decisions


def _made(inputs: Inputs) -> Selector:
    return RandomSelector(inputs.seed)


SELECTOR = SelectorKind(_made)
