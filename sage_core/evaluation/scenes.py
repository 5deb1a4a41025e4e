"""Situations as a model read them, from which all steered replies go on.

Each situation is read once: the user's state and the agent's own action that the model draws there
stay fixed in all that follows (its :class:`Scene`), and so do the random numbers, so that replies
differ by what was set and by nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sage_core.config.conversation import SelfPlayConfig
from sage_core.conversation import Said, view
from sage_core.engines.base import Completion, Engine, Request
from sage_core.engines.grammar import action_grammar, sac_grammar, utterance_grammar
from sage_core.engines.steering import FieldName, Steering
from sage_core.errors import StateFormatError
from sage_core.sac import AGENT, EMPTY, USER, StateAction, parse, render_state
from sage_core.schema import Situation
from sage_core.search.dialogue import Speaker
from sage_core.states import NAMED

_GRAMMARS = {"chain": sac_grammar, "action": action_grammar, "utterance": utterance_grammar}


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


def start_of(scene: Scene, field: FieldName, values: tuple[str, ...]) -> str:
    """Both state groups, with ``values`` in the agent's field; the model's own without values."""
    action = scene.action
    if values:
        action = NAMED[field].put(action, values)
    return f"{scene.user} {render_state(action, AGENT.written)}"


def utterances(
    model: Steered, scenes: Sequence[Scene], starts: Sequence[str], n: int = 1
) -> list[list[Completion]]:
    requests = [
        model.request(scene.situation, "utterance", start, n)
        for scene, start in zip(scenes, starts, strict=True)
    ]
    return model.engine.generate(requests)


def _written(state: StateAction, prefix: str) -> str:
    """The group as text; empty where the format cannot carry it."""
    try:
        return render_state(state, prefix)
    except StateFormatError:
        return ""
