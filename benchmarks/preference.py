"""How much a model prefers replies with a property to replies without it, on fixed replies.

For each set of candidates (several replies to the same dialogue), the measure is::

    log p(chosen) - log p(rejected)    in nats, under the model, in the agent's view

``chosen`` has the property, ``rejected`` has not. Nothing is sampled, so two models differ by what
they learned and not by their draws; their difference on one pair is DPO's implicit reward margin
over beta, with one model as the other's reference (Rafailov et al. 2023, section 5).

Log-probabilities are of whole replies, not per token: a property can hang on a few tokens (whether
a reply ends with a question), and a mean over all tokens would shrink it with the reply's length. A
sum has the reverse flaw: a model that finds all of its own text a little likelier gains most on the
longer replies. So a pair's replies are as alike in length as the set allows.

A reply is also measured in parts: the value of ``a_motivation`` given all before it, and the words
given all states.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.optimize import linear_sum_assignment

from sage_core.config.conversation import SelfPlayConfig
from sage_core.sac import AGENT, ends_of_states, is_well_formed, utterance_of
from sage_core.schema import Situation, Trajectory
from sage_core.search.dialogue import Dialogue, Speaker, agent_request


class Part(StrEnum):
    """What of a reply is measured."""

    reply = "reply"
    action = "a_motivation"
    words = "words"


@dataclass(frozen=True)
class ReplyLikelihood:
    """One candidate under one model.

    Attributes:
        situation_id, turn: the set that the candidate is of.
        utterance: what it says, without states.
        tokens: of the utterance.
        log_p: part -> log-probability in nats, the end of the reply not counted.
    """

    situation_id: str
    turn: int
    utterance: str
    tokens: int
    log_p: Mapping[Part, float]


@dataclass(frozen=True)
class Preference:
    """What one model's likelihoods say of the property.

    Attributes:
        by_part: part -> situation id -> mean over the situation's pairs of log p(chosen) - log
            p(rejected), in nats.
        pairs: how many there were.
        unpaired: situations that have none, since all their replies are of one kind.
        longer: mean over the pairs of the chosen reply's tokens less those of the rejected one.
    """

    by_part: dict[Part, dict[str, float]]
    pairs: int
    unpaired: int
    longer: float


def likelihoods(
    trajectories: Sequence[Trajectory], speaker: Speaker, config: SelfPlayConfig, seed: int
) -> list[ReplyLikelihood]:
    """All finished, well-formed candidates of the agent's turns under ``speaker``'s model.

    Raises:
        EngineError: the engine cannot score replies.
    """
    requests, places, texts = [], [], []
    for trajectory in trajectories:
        situation = Situation(
            trajectory.situation_id, trajectory.situation, trajectory.emotion, "evaluation"
        )
        for place, turn in enumerate(trajectory.turns):
            found = [
                each.text for each in turn.candidates if not each.cut and is_well_formed(each.text)
            ]
            if found:
                so_far = Dialogue(situation, situation.situation_id, list(trajectory.turns[:place]))
                requests.append(agent_request(so_far, speaker, config, seed, n=1))
                places.append((situation.situation_id, place))
                texts.append(found)
    options = [
        list(dict.fromkeys(start for text in found for start in _starts(text))) for found in texts
    ]
    answers = speaker.engine.choose(requests, options)
    spoken = list(dict.fromkeys(utterance_of(text) for found in texts for text in found))
    tokens = dict(zip(spoken, speaker.engine.token_counts(spoken), strict=True))
    rows = []
    for (situation_id, place), found, starts, answer in zip(
        places, texts, options, answers, strict=True
    ):
        log_p = dict(zip(starts, answer, strict=True))
        for text in found:
            before_value, value, states, whole = (log_p[start] for start in _starts(text))
            utterance = utterance_of(text)
            parts = {
                Part.reply: whole,
                Part.action: value - before_value,
                Part.words: whole - states,
            }
            rows.append(ReplyLikelihood(situation_id, place, utterance, tokens[utterance], parts))
    return rows


def preference(rows: Sequence[ReplyLikelihood], has: Callable[[str], float]) -> Preference:
    """Pair the replies of each set by length (each reply in one pair at most, the least sum of
    differences) and compare them; a set of one kind has no pair."""
    sets: dict[tuple[str, int], tuple[list[ReplyLikelihood], list[ReplyLikelihood]]] = {}
    for row in rows:
        chosen, rejected = sets.setdefault((row.situation_id, row.turn), ([], []))
        (chosen if has(row.utterance) else rejected).append(row)
    differences: dict[str, list[dict[Part, float]]] = {}
    longer = []
    for (situation_id, _), (chosen, rejected) in sets.items():
        lengths = [np.array([row.tokens for row in kind]) for kind in (chosen, rejected)]
        apart = np.abs(lengths[0][:, None] - lengths[1][None, :])
        for one, other in zip(*linear_sum_assignment(apart), strict=True):
            longer.append(chosen[one].tokens - rejected[other].tokens)
            differences.setdefault(situation_id, []).append(
                {part: chosen[one].log_p[part] - rejected[other].log_p[part] for part in Part}
            )
    return Preference(
        {
            part: {
                situation_id: float(np.mean([pair[part] for pair in pairs]))
                for situation_id, pairs in differences.items()
            }
            for part in Part
        },
        len(longer),
        len({row.situation_id for row in rows}) - len(differences),
        float(np.mean(longer)) if longer else 0.0,
    )


def _starts(text: str) -> tuple[str, str, str, str]:
    """A well-formed reply up to the value of ``a_motivation``, with the value, with all states, and
    whole."""
    user_end, action_end = ends_of_states(text)
    inner = text.index("{", user_end) + 1
    motivation, emotion, _ = AGENT.key.finditer(text[inner : action_end - 1])
    return (
        text[: inner + motivation.end()],
        text[: inner + emotion.start()],
        text[:action_end],
        text,
    )
