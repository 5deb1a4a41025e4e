"""What the rollouts of one model say about it, each rate with its n and a 95% interval."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import stats

from sage_core.languages import is_question, words
from sage_core.sac import parse
from sage_core.schema import Trajectory
from sage_core.states import SINGLE, StateField, one_for_each

CONFIDENCE = 0.95
TOP_SHARES = 12


@dataclass(frozen=True)
class Rate:
    """A share of ``n`` cases with its 95% Wilson interval; all None at n = 0."""

    hits: int
    n: int
    value: float | None
    ci_low: float | None
    ci_high: float | None

    @classmethod
    def of(cls, hits: int, n: int) -> "Rate":
        if n == 0:
            return cls(0, 0, None, None, None)
        interval = stats.binomtest(hits, n).proportion_ci(CONFIDENCE, method="wilson")
        return cls(hits, n, hits / n, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class Mean:
    """A mean of ``n`` values with its 95% t-interval; the interval is None below n = 2."""

    n: int
    value: float | None
    ci_low: float | None
    ci_high: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Mean":
        n = len(values)
        if n == 0:
            return cls(0, None, None, None)
        mean = float(np.mean(values))
        error = float(stats.sem(values)) if n > 1 else 0.0
        if error == 0.0:
            return cls(n, mean, mean if n > 1 else None, mean if n > 1 else None)
        low, high = stats.t.interval(CONFIDENCE, n - 1, loc=mean, scale=error)
        return cls(n, mean, float(low), float(high))


@dataclass(frozen=True)
@one_for_each(SINGLE, dict[str, int])
class ModelMetrics:
    """Figures of one model's rollouts, with one attribute more for each field of one value, named
    in plural: how often each value was the agent's action, letter case aside, in lower case, most
    frequent first.

    Attributes:
        reply_words: words per agent reply, states not counted (paper: 86.2 for m0, 21.8 after).
        questions: replies that end in a question mark.
        distinct_2: distinct word pairs over all word pairs of all replies; None without pairs.
        emotion_accuracy: dialogues whose first predicted user emotion is the situation's label,
            letter case aside; n counts the dialogues of models that predict states.
    """

    model: str
    reply_words: Mean
    questions: Rate
    distinct_2: float | None
    emotion_accuracy: Rate

    def counts(self, field: StateField) -> dict[str, int]:
        """How often each value of a field was the agent's action."""
        counts: dict[str, int] = getattr(self, field.plural)
        return counts


def model_metrics(model: str, trajectories: Sequence[Trajectory], *, states: bool) -> ModelMetrics:
    """Compute the figures of ``model``; ``states`` says whether it speaks State-Action Chains."""
    replies = [
        parse(turn.content)
        for trajectory in trajectories
        for turn in trajectory.turns
        if turn.role == "assistant"
    ]
    utterances = [reply.utterance for reply in replies]
    pairs = [pair for utterance in utterances for pair in pairwise(words(utterance.casefold()))]
    labelled = [
        (parse(turn.content).user.emotion, trajectory.emotion)
        for trajectory in trajectories
        for turn in [turn for turn in trajectory.turns if turn.role == "assistant"][:1]
        if states
    ]
    right = sum((told or "").casefold() == label.casefold() for told, label in labelled)
    return ModelMetrics(
        model=model,
        reply_words=Mean.of([len(words(utterance)) for utterance in utterances]),
        questions=Rate.of(sum(map(is_question, utterances)), len(utterances)),
        distinct_2=len(set(pairs)) / len(pairs) if pairs else None,
        emotion_accuracy=Rate.of(right, len(labelled)),
        **{
            field.plural: _counts(value for reply in replies for value in field.of(reply.agent))
            for field in SINGLE
        },
    )


def _counts(values: Iterable[str]) -> dict[str, int]:
    counted = Counter(value.casefold() for value in values)
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))
