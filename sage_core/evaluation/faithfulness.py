"""Does the reply follow the action? One field of the agent's action is set to one value or to
another, all else equal: how far the reply moves, how often the action can be recovered from the
reply, and what share of the variance between replies to a situation the action decides, the rest
being between wordings of one action (:mod:`sage_core.evaluation.variance`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from sage_core.corpus.sentiment import analyser
from sage_core.engines.base import Completion
from sage_core.engines.steering import FieldName
from sage_core.evaluation.metrics import Mean, Rate
from sage_core.evaluation.scenes import Scene, Steered, start_of, utterances
from sage_core.evaluation.variance import Decided, decided

Embed = Callable[[Sequence[str]], NDArray[np.float32]]


@dataclass(frozen=True)
class Contrast:
    """Replies under the action ``a`` and under ``b``, all else equal.

    Attributes:
        llr_per_token: log-likelihood of a reply under its own action less that under the other, in
            nats per token of the reply; the mean of a situation's two replies is one value, n
            counts situations. 0: the reply ignores the action. Its expectation is the divergence
            of the two reply distributions, up to temperature, top-k and penalty, which are in the
            drawing only.
        recovered: replies that are likelier under their own action than under the other; chance is
            1/2. n counts replies, two a situation.
    """

    a: str
    b: str
    llr_per_token: Mean
    recovered: Rate


@dataclass(frozen=True)
class ActionEffect:
    """The share of the variance of ``score`` that is between actions.

    Attributes:
        score: of a reply: 'embedding' (a sentence embedding, 384 numbers), 'sentiment' (VADER's
            compound), 'words' (their logarithm), 'question' (whether it ends in one).
        decided: its n counts situations, those with an empty reply left out.
    """

    score: str
    decided: Decided


@dataclass(frozen=True)
class Faithfulness:
    """How replies follow one field of the agent's action.

    Attributes:
        values: all actions of the contrasts; ``recovered`` is the share of replies that are
            likelier under their own than under any other of them, chance is 1/len(values).
        llr_per_token: as in :class:`Contrast`, over all contrasts; n counts situations.
        effects: how much of a reply the action decides, by several scores; empty where one wording
            was drawn.
        wordings: replies drawn in each situation under each action.
    """

    field: FieldName
    values: tuple[str, ...]
    contrasts: tuple[Contrast, ...]
    llr_per_token: Mean
    recovered: Rate
    effects: tuple[ActionEffect, ...] = ()
    wordings: int = 1


def faithfulness(
    scenes: Sequence[Scene],
    model: Steered,
    field: FieldName,
    pairs: Sequence[tuple[str, str]],
    wordings: int = 1,
    embed: Embed | None = None,
) -> Faithfulness:
    """Replies with the agent's ``field`` set to each value of ``pairs``, ``wordings`` of them drawn
    under each; the first one is scored under each value.

    An action is recovered where the reply is likeliest under it: the most probable action given
    the reply, all being equally frequent here. Equal likelihoods are told apart by lot. Empty
    replies do not count.
    """
    values = tuple(dict.fromkeys(value for pair in pairs for value in pair))
    drawn = _drawn(scenes, model, field, values, wordings)
    scored = _scored(scenes, model, field, values, [row[0] for row in drawn])
    lots = Random(model.seed)
    contrasts = []
    of_scenes: list[list[float]] = [[] for _ in scenes]
    for pair in pairs:
        ratios, hits, n = [], 0, 0
        for number, replies in enumerate(scored):
            if not all(value in replies for value in pair):
                continue
            both = [_ratio(replies[own], own, other) for own, other in (pair, pair[::-1])]
            if all(map(math.isfinite, both)):
                ratios.append(sum(both) / 2)
                of_scenes[number] += both
            hits += sum(_likeliest(replies[own].scores, pair, lots) == own for own in pair)
            n += len(pair)
        contrasts.append(Contrast(*pair, Mean.of(ratios), Rate.of(hits, n)))
    all_replies = [(own, reply) for replies in scored for own, reply in replies.items()]
    hits = sum(_likeliest(reply.scores, values, lots) == own for own, reply in all_replies)
    return Faithfulness(
        field=field,
        values=values,
        contrasts=tuple(contrasts),
        llr_per_token=Mean.of([sum(ratios) / len(ratios) for ratios in of_scenes if ratios]),
        recovered=Rate.of(hits, len(all_replies)),
        effects=tuple(_effects(drawn, len(values), embed, model.seed)) if wordings > 1 else (),
        wordings=wordings,
    )


def _effects(
    drawn: Sequence[Sequence[Completion]], actions: int, embed: Embed | None, seed: int
) -> Iterator[ActionEffect]:
    """``drawn`` holds the wordings of each action of each scene, ``actions`` rows a scene."""
    scenes = [
        [[completion.text.strip() for completion in row] for row in drawn[first : first + actions]]
        for first in range(0, len(drawn), actions)
    ]
    scenes = [scene for scene in scenes if all(all(row) for row in scene)]
    texts = [text for scene in scenes for row in scene for text in row]
    vader = analyser()
    scores = {
        "sentiment": np.array([[vader(text)] for text in texts]),
        "words": np.array([[math.log(len(text.split()))] for text in texts]),
        "question": np.array([[float(text.endswith("?"))] for text in texts]),
    }
    if embed is not None and texts:
        scores = {"embedding": np.asarray(embed(texts), dtype=float), **scores}
    for name, rows in scores.items():
        if texts:
            shaped = rows.reshape(len(scenes), actions, len(drawn[0]), -1)
            yield ActionEffect(name, decided(shaped, seed=seed))


@dataclass(frozen=True)
class _Scored:
    """A reply's length in tokens and its log-likelihood under each value."""

    tokens: int
    scores: dict[str, float]


def _drawn(
    scenes: Sequence[Scene],
    model: Steered,
    field: FieldName,
    values: tuple[str, ...],
    wordings: int,
) -> list[list[Completion]]:
    """``wordings`` replies for each scene and value, the values of a scene together."""
    asked = [(scene, start_of(scene, field, (value,))) for scene in scenes for value in values]
    return utterances(model, [scene for scene, _ in asked], [start for _, start in asked], wordings)


def _scored(
    scenes: Sequence[Scene],
    model: Steered,
    field: FieldName,
    values: tuple[str, ...],
    drawn: Sequence[Completion],
) -> list[dict[str, _Scored]]:
    """For each scene, the reply ``drawn`` under each value; those that say nothing are left out."""
    asked = [(scene, start_of(scene, field, (value,))) for scene in scenes for value in values]
    said = [
        {
            value: completion
            for value, completion in zip(values, drawn[first : first + len(values)], strict=True)
            if completion.text.strip()
        }
        for first in range(0, len(drawn), len(values))
    ]
    # The replies of a scene are the options of one request for each value: read once.
    requests, options = [], []
    for number, (scene, start) in enumerate(asked):
        if replies := said[number // len(values)]:
            requests.append(model.request(scene.situation, "utterance", start))
            options.append([completion.text for completion in replies.values()])
    rows = iter(model.engine.choose(requests, options) if requests else [])
    scored = []
    for replies in said:
        under = {value: next(rows) for value in values} if replies else {}
        scored.append(
            {
                own: _Scored(
                    completion.completion_tokens,
                    {value: scores[position] for value, scores in under.items()},
                )
                for position, (own, completion) in enumerate(replies.items())
            }
        )
    return scored


def _ratio(reply: _Scored, own: str, other: str) -> float:
    difference = reply.scores[own] - reply.scores[other]
    return difference / max(reply.tokens, 1)


def _likeliest(scores: dict[str, float], values: Sequence[str], lots: Random) -> str:
    best = max(scores[value] for value in values)
    return lots.choice([value for value in values if scores[value] == best])
