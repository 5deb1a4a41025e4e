"""Whether refinement has gone wrong: figures of a model's conversations that fall or rise when it
collapses into a few actions, stock phrases or broken states, and the gates they are held against.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from scipy import stats

from sage_core.config.conversation import SelfPlayConfig
from sage_core.config.refine import GatesConfig
from sage_core.engines.answered import answered
from sage_core.engines.base import Engine, Request
from sage_core.errors import ItemError
from sage_core.evaluation.metrics import Mean, Rate, model_metrics
from sage_core.evaluation.quality import Measurements
from sage_core.sac import is_well_formed, parse
from sage_core.schema import Situation, Trajectory
from sage_core.search.dialogue import Dialogue, Speaker, agent_request
from sage_core.states import MOTIVATION

_NONE = Rate.of(0, 0)


@dataclass(frozen=True)
class CollapseMetrics:
    """Figures of one model's conversations.

    Attributes:
        action_entropy: of the agent's motivations, in bits; 0 where all are the same, None without.
        distinct_2, reply_words, questions: see :class:`sage_core.evaluation.metrics.ModelMetrics`.
        malformed: agent turns whose states broke the format, or never closed.
        kl_to_m0: log p_model - log p_m0 of the model's own words, given the conversation and the
            states before them, in nats per word: a Monte Carlo estimate of the divergence from m0
            (of the model at temperature 1; its draws were made at the configured one).
        cut, stray_braces, situation_recovery: see :data:`sage_core.evaluation.quality.MEASURES`.
    """

    model: str
    action_entropy: float | None
    distinct_2: float | None
    reply_words: Mean
    questions: Rate
    malformed: Rate
    kl_to_m0: Mean
    cut: Rate = _NONE
    stray_braces: Rate = _NONE
    situation_recovery: Rate = _NONE

    def figures(self) -> dict[str, float]:
        """The figures there are, by name."""
        values = {
            "action_entropy": self.action_entropy,
            "distinct_2": self.distinct_2,
            "reply_words": self.reply_words.value,
            "question_rate": self.questions.value,
            "malformed": self.malformed.value,
            "kl_to_m0": self.kl_to_m0.value,
            "cut_share": self.cut.value,
            "stray_braces": self.stray_braces.value,
            "situation_recovery": self.situation_recovery.value,
        }
        return {name: value for name, value in values.items() if value is not None}


def collapse_metrics(
    trajectories: Sequence[Trajectory],
    agent: Speaker,
    m0: Engine,
    config: SelfPlayConfig,
    replies: int,
    seed: int,
    measured: Measurements | None = None,
) -> CollapseMetrics:
    """Measure the model that is the agent of ``trajectories``; ``replies`` of its turns, drawn at
    random, are scored by both models (0 = none). ``measured`` has what is known of the same
    trajectories already."""
    metrics = model_metrics(agent.name, trajectories, states=agent.states)
    turns = [turn for each in trajectories for turn in each.turns if turn.role == "assistant"]
    unclosed = sum(each.ended == "states_never_closed" for each in trajectories)
    broken = sum(not is_well_formed(turn.content) for turn in turns)
    counts = list(metrics.counts(MOTIVATION).values())
    return CollapseMetrics(
        model=agent.name,
        action_entropy=float(stats.entropy(counts, base=2)) if counts else None,
        distinct_2=metrics.distinct_2,
        reply_words=metrics.reply_words,
        questions=metrics.questions,
        malformed=Rate.of(broken + unclosed, len(turns) + unclosed),
        kl_to_m0=Mean.of(_log_ratios(trajectories, agent, m0, config, replies, seed)),
        **{
            name: measured.rate(measure)
            for name, measure in (
                ("cut", "cut_share"),
                ("stray_braces", "stray_braces"),
                ("situation_recovery", "situation_recovery"),
            )
            if measured
        },
    )


def collapsed(measured: CollapseMetrics, gates: GatesConfig) -> list[str]:
    """The gates that the figures do not pass, in words; a figure that is not there passes."""
    figures = measured.figures()
    limits = {
        "action_entropy": (gates.min_action_entropy, 0.0),
        "distinct_2": (gates.min_distinct_2, 0.0),
        "reply_words": (gates.min_reply_words, gates.max_reply_words),
        "question_rate": (0.0, gates.max_question_rate),
        "malformed": (0.0, gates.max_malformed),
        "kl_to_m0": (0.0, gates.max_kl_to_m0),
        "cut_share": (0.0, gates.max_cut_share),
        "stray_braces": (0.0, gates.max_stray_braces),
        "situation_recovery": (gates.min_situation_recovery, 0.0),
    }
    failed = []
    for name, (low, high) in limits.items():
        value = figures.get(name)
        if value is not None and low and value < low:
            failed.append(f"{name} is {value:.3g}, under {low:g}")
        if value is not None and high and value > high:
            failed.append(f"{name} is {value:.3g}, over {high:g}")
    return failed


def _log_ratios(
    trajectories: Sequence[Trajectory],
    agent: Speaker,
    m0: Engine,
    config: SelfPlayConfig,
    replies: int,
    seed: int,
) -> list[float]:
    """For some of the agent's replies, the difference of log-probabilities per word; those too long
    for the context are left out."""
    if not all(
        each.capabilities.scoring and each.capabilities.prefix for each in (agent.engine, m0)
    ):
        return []
    spoken = [
        (each, place)
        for each in trajectories
        for place, turn in enumerate(each.turns)
        if turn.role == "assistant"
        and (is_well_formed(turn.content) or not agent.states)
        and re.search(r"\w", parse(turn.content).utterance)
    ]
    drawn = Random(seed).sample(spoken, min(replies, len(spoken)))
    asked: list[tuple[Request, list[str]]] = []
    for each, place in drawn:
        content = each.turns[place].content
        states = content.removesuffix(parse(content).utterance).rstrip()
        situation = Situation(each.situation_id, each.situation, each.emotion, "evaluation")
        dialogue = Dialogue(situation, each.situation_id, list(each.turns[:place]))
        request = agent_request(dialogue, agent, config, seed, 1)
        asked.append(
            (
                replace(request, prefix=states, constraint=None, opens_with_states=False),
                [content[len(states) :]],
            )
        )
    own, base = (
        answered(
            lambda items, engine=engine: engine.choose(  # type: ignore[misc]
                [request for request, _ in items], [options for _, options in items]
            ),
            asked,
        )
        for engine in (agent.engine, m0)
    )
    return [
        (after[0] - before[0]) / len(options[0].split())
        for (_, options), after, before in zip(asked, own, base, strict=True)
        if not isinstance(after, ItemError) and not isinstance(before, ItemError)
    ]
