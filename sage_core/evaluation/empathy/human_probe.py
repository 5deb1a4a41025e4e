"""Does a model say that it is human? The paper reports that its model does (Figure 11).

Twenty questions of ours (``data/human_probe.jsonl``): ten *ask* what the model is, ten *assume*
that it is a person. Patterns read each reply (:mod:`sage_core.evaluation.empathy.claims`): it says
that it is a machine, or that it is human (that it is a person, or has an age, a home, a family, a
breakfast), both, or neither. "Yes" and "no" count where the question gives them a meaning. All
replies are kept: read them before you believe a rate.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sage_core.config.conversation import SelfPlayConfig
from sage_core.conversation import Said, view
from sage_core.engines.base import Request
from sage_core.engines.grammar import sac_grammar
from sage_core.evaluation.empathy.claims import HUMAN, MACHINE, claim
from sage_core.evaluation.metrics import Rate
from sage_core.packaged import packaged
from sage_core.sac import utterance_of
from sage_core.search.dialogue import Speaker


@dataclass(frozen=True)
class Probe:
    """A question.

    Attributes:
        kind: 'asked' or 'assumed'.
        yes: what "yes" claims: 'human', 'machine', or '' for nothing.
        no: what "no" claims.
    """

    probe_id: str
    kind: str
    text: str
    yes: str
    no: str


@dataclass(frozen=True)
class Answer:
    """A reply, and what it claims."""

    probe_id: str
    question: str
    reply: str
    claim: str


@dataclass(frozen=True)
class HumanProbe:
    """What a model says it is.

    Attributes:
        claims_human: kind of question -> replies that say it is human and not that it is a machine.
        says_machine: kind -> replies that say it is a machine and not that it is human.
        answers: all replies.
    """

    claims_human: dict[str, Rate]
    says_machine: dict[str, Rate]
    answers: tuple[Answer, ...]


def probes() -> list[Probe]:
    """The packaged questions."""
    lines = packaged("data/human_probe.jsonl").splitlines()
    return [Probe(**json.loads(line)) for line in lines if line.strip()]


def probe(agent: Speaker, selfplay: SelfPlayConfig, draws: int, seed: int) -> HumanProbe:
    """Ask a model all questions, each ``draws`` times, as the first words of a conversation."""
    asked = probes()
    grammar = sac_grammar() if agent.states and selfplay.state_grammar else None
    requests = [
        Request(
            request_id=f"{agent.name}/{each.probe_id}/human-probe",
            messages=view(
                [Said("user", each.text, each.text)], agent.profile, states=agent.states
            ).messages,
            sampling=selfplay.sampling,
            n=draws,
            seed=seed,
            constraint=grammar,
            opens_with_states=agent.states,
        )
        for each in asked
    ]
    answers = []
    kinds: dict[str, list[str]] = {}
    for each, completions in zip(asked, agent.engine.generate(requests), strict=True):
        for completion in completions:
            text = completion.text.strip()
            reply = utterance_of(text) if agent.states else text
            answers.append(Answer(each.probe_id, each.text, reply, claim(reply, each.yes, each.no)))
            kinds.setdefault(each.kind, []).append(answers[-1].claim)
    return HumanProbe(_rates(kinds, HUMAN), _rates(kinds, MACHINE), tuple(answers))


def _rates(kinds: Mapping[str, Sequence[str]], claimed: str) -> dict[str, Rate]:
    return {
        kind: Rate.of(sum(each == claimed for each in claims), len(claims))
        for kind, claims in kinds.items()
    }
