"""A selector of scores: each reply is scored by itself.

A course of several turns is worth the mean of its replies' scores. What goes wrong with one reply
(an error, no number, not finite) puts its candidate last and is noted with the reason.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sage_core.schema import Message
from sage_core.search.selectors.selector import Ballot, Decision

Score = Callable[[str, tuple[Message, ...]], float]
"""Of an utterance and the utterances before it."""


@dataclass(frozen=True)
class ScoreSelector:
    """The candidate with the highest score wins; the scores are its votes."""

    score: Score
    independent: bool
    may_refuse: bool = False

    def decide(self, ballots: Sequence[Ballot]) -> list[Decision]:
        decisions = []
        for ballot in ballots:
            notes: dict[str, None] = {}
            votes = [self._value(ballot.history, course, notes) for course in ballot.candidates]
            decisions.append(Decision(tuple(votes), notes=tuple(notes)))
        return decisions

    def _value(
        self, history: tuple[Message, ...], course: tuple[Message, ...], notes: dict[str, None]
    ) -> float:
        scores = []
        for place, message in enumerate(course):
            if message.role != "assistant":
                continue
            try:
                score = float(self.score(message.content, (*history, *course[:place])))
            except Exception as error:  # the user's own code: any error is one reply's loss
                notes[f"score_failed: {type(error).__name__}: {error}"] = None
                return -math.inf
            if not math.isfinite(score):
                notes[f"score_failed: it is {score}"] = None
                return -math.inf
            scores.append(score)
        return sum(scores) / len(scores)
