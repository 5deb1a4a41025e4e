"""The evidence on steering: does the state follow the boost, and does the reply follow the state?

Three measurements on a model that writes State-Action Chains, through ``Engine.generate`` and
``Engine.choose`` only:

- *dose-response*: how often the agent's field has the boosted value, by boost;
- *faithfulness*: the agent's action set to one value or to another, all else equal: how far the
  reply moves, how often the action can be recovered from the reply, and what share of the variance
  between replies to a situation the action decides, the rest being between wordings of one action
  (:mod:`sage_core.evaluation.variance`);
- *forced replies*: the paper's Tables 3 to 5.

Each situation is read once: the user's state and the agent's own action that the model draws there
stay fixed in all that follows (its :class:`Scene`), and so do the random numbers, so that replies
differ by what was set and by nothing else.

Where this departs from the paper: its tables show one conversation each, steered by a boost, and
no numbers. Ours show held-out situations, with the model's own choice as the first row, and replace
the one field in the model's own action, which no boost can miss.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray

from sage_core.config.conversation import SelfPlayConfig
from sage_core.config.steering import SteeringReportConfig
from sage_core.conversation import Said, view
from sage_core.corpus.sentiment import analyser
from sage_core.engines.base import Completion, Engine, Request
from sage_core.engines.grammar import action_grammar, sac_grammar, utterance_grammar
from sage_core.engines.steering import Boost, FieldName, Force, Steering, read_force
from sage_core.errors import ConfigError, StateFormatError
from sage_core.evaluation.metrics import Mean, Rate
from sage_core.evaluation.variance import Decided, decided
from sage_core.sac import AGENT, EMPTY, USER, StateAction, parse, render_state
from sage_core.schema import Situation
from sage_core.search.dialogue import Speaker
from sage_core.states import FIELDS, NAMED, SINGLE

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
_GRAMMARS = {"chain": sac_grammar, "action": action_grammar, "utterance": utterance_grammar}


@dataclass(frozen=True)
class Dose:
    """Share of replies whose field has the keyword, letter case aside, under one boost (logits).

    Its n is situations x draws. The interval takes draws as independent; those of one situation are
    alike, so with few situations it is too narrow.
    """

    boost: float
    share: Rate


@dataclass(frozen=True)
class DoseResponse:
    """The doses of one keyword in one field of the agent, in the order asked."""

    field: FieldName
    keyword: str
    doses: tuple[Dose, ...]


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


@dataclass(frozen=True)
class ForcedReply:
    """``text`` is the whole chain; ``values`` what was set in it, or nothing: the model's own.
    ``cut``: it was still going on when the tokens allowed were used up."""

    values: tuple[str, ...]
    text: str
    cut: bool


@dataclass(frozen=True)
class ForcedReplies:
    """The replies to one situation under different values of one field."""

    field: FieldName
    situation_id: str
    situation: str
    replies: tuple[ForcedReply, ...]


@dataclass(frozen=True)
class SteeringEvidence:
    """All that was measured of one model."""

    model: str
    seed: int
    situations: int
    draws: int
    dose_responses: tuple[DoseResponse, ...]
    faithfulness: tuple[Faithfulness, ...]
    forced: tuple[ForcedReplies, ...]


@dataclass(frozen=True)
class Scene:
    """A situation as the model read it: the user's state, as text, and its own action there."""

    situation: Situation
    user: str
    action: StateAction


@dataclass(frozen=True)
class Steered:
    """The model, and how it is spoken to.

    Attributes:
        agent: the model, with its profile.
        selfplay: sampling and grammar.
    """

    agent: Speaker
    selfplay: SelfPlayConfig
    seed: int

    @property
    def engine(self) -> Engine:
        return self.agent.engine

    def request(
        self,
        situation: Situation,
        part: str,
        prefix: str = "",
        n: int = 1,
        steering: Steering | None = None,
    ) -> Request:
        """The agent's first reply to a situation, or the part of it that follows ``prefix``.

        The id does not name what is set or boosted, so that all variants of a reply are drawn with
        the same random numbers.
        """
        opening = Said("user", situation.text, situation.text)
        return Request(
            request_id=f"{self.agent.name}/{situation.situation_id}/steer",
            messages=view([opening], self.agent.profile, states=self.agent.states).messages,
            sampling=self.selfplay.sampling,
            n=n,
            seed=self.seed,
            constraint=_GRAMMARS[part]() if self.selfplay.state_grammar else None,
            opens_with_states=part != "utterance",
            prefix=prefix,
            steering=steering,
        )


def evidence(
    situations: Sequence[Situation],
    agent: Speaker,
    settings: SteeringReportConfig,
    selfplay: SelfPlayConfig,
    seed: int,
    on_progress: Callable[[int], None] = lambda count: None,
    embed: Embed | None = None,
) -> SteeringEvidence:
    """Measure ``agent``; ``on_progress`` is called after each of :func:`steps`, ``embed`` makes
    sentence embeddings (None: no measure by them).

    Raises:
        ConfigError: see :func:`check`.
        EngineError: the engine cannot steer, go on from a prefix, or score.
    """
    check(settings)
    sampling = selfplay.sampling
    short = sampling.model_copy(update={"max_new_tokens": settings.max_new_tokens})
    model = Steered(agent, selfplay.model_copy(update={"sampling": short}), seed)
    found = scenes(situations, replace(model, selfplay=selfplay))
    on_progress(1)
    responses = []
    for force in _boosted(settings):
        responses.append(dose_response(found, model, force, settings.boosts, settings.draws))
        on_progress(1)
    faithful = []
    for field, pairs in _pairs(settings):
        faithful.append(faithfulness(found, model, field, pairs, settings.wordings, embed))
        on_progress(1)
    forced = forced_replies(found[: settings.shown_situations], model, _tables(settings))
    on_progress(1)
    return SteeringEvidence(
        model=agent.name,
        seed=seed,
        situations=len(found),
        draws=settings.draws,
        dose_responses=tuple(responses),
        faithfulness=tuple(faithful),
        forced=tuple(forced),
    )


def steps(settings: SteeringReportConfig) -> int:
    """How often :func:`evidence` reports progress."""
    return 2 + len(settings.boosted) + len(_pairs(settings))


def check(settings: SteeringReportConfig) -> None:
    """
    Raises:
        ConfigError: a field or value that the format does not have, a boost that is not finite, or
            a pair that does not differ.
    """
    for force in _boosted(settings):
        for boost in settings.boosts:
            Boost("agent", force.field, force.values[0], boost)
    for field, pairs in _pairs(settings):
        for pair in pairs:
            if len({value.casefold() for value in pair}) < len(pair):
                raise ConfigError(
                    f"steering_report.{field}_pairs holds {list(pair)}; a reply is compared under "
                    "two different actions"
                )
            for value in pair:
                Force("agent", field, (value,))
    for field, choices in _tables(settings):
        for values in choices:
            Force("agent", field, values)


def key_figures(evidence: SteeringEvidence) -> dict[str, float]:
    """The figures to compare runs by, named for a tracker; of each field the first curve."""
    figures: dict[str, float | None] = {}
    for response in reversed(evidence.dose_responses):
        for dose in response.doses:
            figures[f"steering.{response.field}.boost_{dose.boost:g}"] = dose.share.value
    for faithful in evidence.faithfulness:
        figures[f"steering.{faithful.field}.llr_per_token"] = faithful.llr_per_token.value
        figures[f"steering.{faithful.field}.recovered"] = faithful.recovered.value
        for effect in faithful.effects:
            name = f"steering.{faithful.field}.{effect.score}"
            figures[f"{name}.eta_squared"] = effect.decided.eta_squared
            figures[f"{name}.omega_squared"] = effect.decided.omega_squared
    return {name: value for name, value in figures.items() if value is not None}


def scenes(situations: Sequence[Situation], model: Steered) -> list[Scene]:
    """Each situation with the states that the model writes there of its own accord; a state that
    cannot be written back (possible without the grammar only) is left empty."""
    requests = [model.request(situation, "chain") for situation in situations]
    found = []
    for situation, completions in zip(situations, model.engine.generate(requests), strict=True):
        reply = parse(completions[0].text.strip())
        action = reply.agent if _written(reply.agent, AGENT.written) else EMPTY
        user = _written(reply.user, USER.written) or render_state(EMPTY, USER.written)
        found.append(Scene(situation, user, action))
    return found


def dose_response(
    scenes: Sequence[Scene],
    model: Steered,
    keyword: Force,
    boosts: Iterable[float],
    draws: int,
) -> DoseResponse:
    """Draw the action ``draws`` times in each scene under each boost of the keyword.

    The utterance comes behind the states and cannot change them, so it is not drawn (under the
    grammar; without it, drawing ends after the tokens allowed). States that are cut off or
    malformed do not have the value.
    """
    (word,) = keyword.values
    asked = [(boost, scene) for boost in boosts for scene in scenes]
    requests = [
        model.request(
            scene.situation,
            "action",
            scene.user,
            draws,
            Steering(boosts=(Boost("agent", keyword.field, word, boost),)),
        )
        for boost, scene in asked
    ]
    hits, n = Counter[float](), Counter[float]()
    for (boost, scene), completions in zip(asked, model.engine.generate(requests), strict=True):
        actions = [parse(scene.user + completion.text).agent for completion in completions]
        hits[boost] += sum(_has(action, keyword.field, word) for action in actions)
        n[boost] += len(actions)
    doses = [Dose(boost, Rate.of(hits[boost], n[boost])) for boost in n]
    return DoseResponse(keyword.field, word, tuple(doses))


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


def forced_replies(
    scenes: Sequence[Scene],
    model: Steered,
    tables: Sequence[tuple[FieldName, Sequence[tuple[str, ...]]]],
) -> list[ForcedReplies]:
    """For each field and scene, the reply to the model's own action and to each list of values."""
    asked = [
        (scene, field, values)
        for field, choices in tables
        for scene in scenes
        for values in ((), *choices)
    ]
    starts = [_start(*one) for one in asked]
    completions = _utterances(model, [scene for scene, _, _ in asked], starts)
    replies: dict[tuple[FieldName, str], list[ForcedReply]] = {}
    situations = {scene.situation.situation_id: scene.situation.text for scene in scenes}
    for (scene, field, values), start, (said,) in zip(asked, starts, completions, strict=True):
        row = ForcedReply(values, start + said.text, said.finish_reason == "length")
        replies.setdefault((field, scene.situation.situation_id), []).append(row)
    return [
        ForcedReplies(field, identifier, situations[identifier], tuple(rows))
        for (field, identifier), rows in replies.items()
    ]


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
    asked = [(scene, _start(scene, field, (value,))) for scene in scenes for value in values]
    return _utterances(
        model, [scene for scene, _ in asked], [start for _, start in asked], wordings
    )


def _scored(
    scenes: Sequence[Scene],
    model: Steered,
    field: FieldName,
    values: tuple[str, ...],
    drawn: Sequence[Completion],
) -> list[dict[str, _Scored]]:
    """For each scene, the reply ``drawn`` under each value; those that say nothing are left out."""
    asked = [(scene, _start(scene, field, (value,))) for scene in scenes for value in values]
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


def _utterances(
    model: Steered, scenes: Sequence[Scene], starts: Sequence[str], n: int = 1
) -> list[list[Completion]]:
    requests = [
        model.request(scene.situation, "utterance", start, n)
        for scene, start in zip(scenes, starts, strict=True)
    ]
    return model.engine.generate(requests)


def _ratio(reply: _Scored, own: str, other: str) -> float:
    difference = reply.scores[own] - reply.scores[other]
    return difference / max(reply.tokens, 1)


def _likeliest(scores: dict[str, float], values: Sequence[str], lots: Random) -> str:
    best = max(scores[value] for value in values)
    return lots.choice([value for value in values if scores[value] == best])


def _start(scene: Scene, field: FieldName, values: tuple[str, ...]) -> str:
    """Both state groups, with ``values`` in the agent's field; the model's own without values."""
    action = scene.action
    if values:
        action = NAMED[field].put(action, values)
    return f"{scene.user} {render_state(action, AGENT.written)}"


def _has(action: StateAction, field: FieldName, keyword: str) -> bool:
    return keyword.casefold() in (value.casefold() for value in NAMED[field].of(action))


def _written(state: StateAction, prefix: str) -> str:
    """The group as text; empty where the format cannot carry it."""
    try:
        return render_state(state, prefix)
    except StateFormatError:
        return ""


def _boosted(settings: SteeringReportConfig) -> list[Force]:
    forces = [read_force(text) for text in settings.boosted]
    for force in forces:
        if force.speaker != "agent" or len(force.values) > 1:
            raise ConfigError(
                f"steering_report.boosted holds '{force.speaker}.{force.field}={force.written}'; "
                "give one keyword of the agent's, such as emotion=playful"
            )
    return forces


def _pairs(settings: SteeringReportConfig) -> list[tuple[FieldName, tuple[tuple[str, str], ...]]]:
    return [(field.name, pairs) for field in SINGLE if (pairs := settings.pairs(field))]


def _tables(
    settings: SteeringReportConfig,
) -> list[tuple[FieldName, tuple[tuple[str, ...], ...]]]:
    """In the paper's order (Tables 3 to 5), then fields that it has no table of; a table without
    values is left out."""
    fields = sorted(FIELDS, key=lambda field: field.table or math.inf)
    return [(field.name, choices) for field in fields if (choices := settings.forced(field))]
