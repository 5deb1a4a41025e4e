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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from sage_core.config.conversation import SelfPlayConfig
from sage_core.config.steering import SteeringReportConfig
from sage_core.engines.steering import Boost, FieldName, Force, Steering, read_force
from sage_core.errors import ConfigError
from sage_core.evaluation.faithfulness import Embed, Faithfulness, faithfulness
from sage_core.evaluation.metrics import Rate
from sage_core.evaluation.scenes import Scene, Steered, scenes, start_of, utterances
from sage_core.sac import StateAction, parse
from sage_core.schema import Situation
from sage_core.search.dialogue import Speaker
from sage_core.states import FIELDS, NAMED, SINGLE


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
    starts = [start_of(*one) for one in asked]
    completions = utterances(model, [scene for scene, _, _ in asked], starts)
    replies: dict[tuple[FieldName, str], list[ForcedReply]] = {}
    situations = {scene.situation.situation_id: scene.situation.text for scene in scenes}
    for (scene, field, values), start, (said,) in zip(asked, starts, completions, strict=True):
        row = ForcedReply(values, start + said.text, said.finish_reason == "length")
        replies.setdefault((field, scene.situation.situation_id), []).append(row)
    return [
        ForcedReplies(field, identifier, situations[identifier], tuple(rows))
        for (field, identifier), rows in replies.items()
    ]


def _has(action: StateAction, field: FieldName, keyword: str) -> bool:
    return keyword.casefold() in (value.casefold() for value in NAMED[field].of(action))


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
