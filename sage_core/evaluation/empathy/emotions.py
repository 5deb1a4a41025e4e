"""Which of EmpatheticDialogues' 32 emotions a model finds in a situation (Rashkin et al. 2019).

Two ways, both by log-probabilities of all 32 labels:

- *asked*: "How does this person feel?", of every model in the same words, each label's mean over
  the situations taken out (:mod:`sage_core.labels`);
- *written*: in the user's state of the model's first reply, behind the motivation that the model
  writes there, as it is. Only models that write states have it.

By chance a label is right in 1 of 32 cases, and among the first five in 5 of 32.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sage_core import labels
from sage_core.config.annotation import AnnotationConfig
from sage_core.config.engine import SamplingConfig
from sage_core.conversation import Said, view
from sage_core.emotions import MIXED, NEGATIVE, POSITIVE, polarity
from sage_core.engines.base import Engine, Request
from sage_core.engines.grammar import user_grammar
from sage_core.errors import DataError, StateFormatError
from sage_core.evaluation.metrics import Rate
from sage_core.sac import EMPTY, USER, StateAction, parse, render_state
from sage_core.schema import Situation
from sage_core.search.dialogue import Speaker
from sage_core.states import EMOTION, MOTIVATION

LABELS = tuple(sorted(POSITIVE | NEGATIVE | MIXED))
TOP = 5


@dataclass(frozen=True)
class Recognition:
    """How well emotions are found one way.

    Attributes:
        way: 'asked' or 'written'.
        exact: the likeliest label is the situation's.
        top: the situation's label is among the five likeliest.
        polarity: the likeliest label is as good or as bad a feeling as the situation's; mixed
            feelings are left out.
        confusion: the situation's label -> the likeliest label -> how often.
        unknown: labels that are not among the 32, and how often; those situations are left out.
    """

    way: str
    exact: Rate
    top: Rate
    polarity: Rate
    confusion: dict[str, dict[str, int]]
    unknown: dict[str, int]


def recognise(situations: Sequence[Situation], agent: Speaker, seed: int) -> list[Recognition]:
    """Find the emotions of all situations, both ways if the model writes states.

    Raises:
        DataError: no situation has one of the 32 labels.
        EngineError: the engine cannot score the labels.
    """
    unknown = Counter(each.emotion for each in situations if _label(each) not in LABELS)
    known = [each for each in situations if _label(each) in LABELS]
    if not known:
        raise DataError(
            f"none of the {len(situations)} situations has one of EmpatheticDialogues' 32 emotions "
            f"({', '.join(LABELS)}); theirs are {', '.join(sorted(unknown)) or 'none'}"
        )
    scores = {"asked": _asked(known, agent.engine, seed)}
    if agent.states:
        scores["written"] = _written(known, agent, seed)
    return [
        recognition(way, [_label(each) for each in known], found, dict(sorted(unknown.items())))
        for way, found in scores.items()
    ]


def recognition(
    way: str, truth: Sequence[str], scores: "np.ndarray", unknown: dict[str, int]
) -> Recognition:
    """The figures of scores (S, 32) of :data:`LABELS`; equal scores count as wrong."""
    places = [_place(row, LABELS.index(label)) for row, label in zip(scores, truth, strict=True)]
    guesses = [LABELS[int(best)] for best in scores.argmax(axis=1)]
    signs = [
        polarity(guess) == polarity(label)
        for guess, label in zip(guesses, truth, strict=True)
        if polarity(label)
    ]
    confusion: dict[str, Counter[str]] = {}
    for label, guess in zip(truth, guesses, strict=True):
        confusion.setdefault(label, Counter())[guess] += 1
    return Recognition(
        way=way,
        exact=Rate.of(sum(place == 0 for place in places), len(places)),
        top=Rate.of(sum(place < TOP for place in places), len(places)),
        polarity=Rate.of(sum(signs), len(signs)),
        confusion={label: dict(sorted(confusion[label].items())) for label in sorted(confusion)},
        unknown=unknown,
    )


def _place(row: "np.ndarray", truth: int) -> int:
    """How many other labels are at least as likely as the true one."""
    return int((row >= row[truth]).sum()) - 1


def _label(situation: Situation) -> str:
    return situation.emotion.strip().casefold()


def _asked(situations: Sequence[Situation], engine: Engine, seed: int) -> "np.ndarray":
    settings = AnnotationConfig(emotions=LABELS)
    return labels.calibrated(labels.score_situations(situations, engine, settings, seed))


def _written(situations: Sequence[Situation], agent: Speaker, seed: int) -> "np.ndarray":
    likeliest = SamplingConfig(temperature=0, top_k=0, repetition_penalty=1)
    requests = [
        Request(
            request_id=f"{agent.name}/{each.situation_id}/emotion",
            messages=view(
                [Said("user", each.text, each.text)], agent.profile, states=True
            ).messages,
            sampling=likeliest,
            seed=seed,
            constraint=user_grammar(),
            opens_with_states=True,
        )
        for each in situations
    ]
    written = agent.engine.generate(requests)
    started = [
        replace(request, prefix=_before_emotion(completions[0].text), constraint=None)
        for request, completions in zip(requests, written, strict=True)
    ]
    return np.asarray(agent.engine.choose(started, [LABELS] * len(started)), dtype=float)


def _before_emotion(text: str) -> str:
    """The start of the user's state up to its emotion, with the motivation that ``text`` has."""
    first = MOTIVATION.put(EMPTY, MOTIVATION.of(parse(text.strip()).user))
    try:
        return _up_to_emotion(first)
    except StateFormatError:
        return _up_to_emotion(EMPTY)


def _up_to_emotion(state: StateAction) -> str:
    mark = LABELS[0]
    written = render_state(EMOTION.put(state, (mark,)), USER.written)
    return written[: written.rindex(mark)]
