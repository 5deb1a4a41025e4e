"""Self-play: the agent and a simulated user talk, all dialogues of a shard together.

Who sees what: the agent sees its own earlier states; the user model and the selector see
utterances only. The user model is a State-Action model as well (``m1``, section 4.4), with the
roles flipped: its states are its own affair and are dropped. With one candidate and no selector
this is a plain rollout, which is how models are evaluated.
"""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

from sage_core.config import ProfileConfig, SelectorConfig, SelfPlayConfig
from sage_core.engines.base import Completion, Engine, Request
from sage_core.engines.grammar import sac_grammar
from sage_core.sac import is_well_formed, utterance_of
from sage_core.schema import Candidate, Message, Situation, Trajectory, TrajectoryTurn
from sage_core.search.selector import Ballot, borda_votes

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Speaker:
    """A model in a conversation; ``states`` says whether it speaks State-Action Chains."""

    name: str
    engine: Engine
    states: bool


@dataclass(frozen=True)
class Selector:
    """Who picks the best candidate."""

    engine: Engine
    config: SelectorConfig


def self_play(
    situations: Sequence[Situation],
    agent: Speaker,
    user: Speaker,
    config: SelfPlayConfig,
    seed: int,
    *,
    candidates: int = 1,
    selector: Selector | None = None,
    on_progress: Callable[[int], None] = lambda count: None,
) -> list[Trajectory]:
    """Simulate a conversation from each situation, in order.

    A dialogue ends early where all candidates of the agent, or the user's reply, are empty. Where
    all engines are servers, each dialogue goes on as soon as its own answer is there; an engine in
    this process gets the turn of all dialogues as one batch.
    """
    engines = [agent.engine, user.engine, *([selector.engine] if selector else [])]
    if len(situations) > 1 and all(engine.capabilities.independent for engine in engines):
        reporting = Lock()

        def report(count: int) -> None:
            with reporting:
                on_progress(count)

        def alone(situation: Situation) -> list[Trajectory]:
            return self_play(
                [situation],
                agent,
                user,
                config,
                seed,
                candidates=candidates,
                selector=selector,
                on_progress=report,
            )

        with ThreadPoolExecutor(len(situations)) as pool:
            return [trajectory for found in pool.map(alone, situations) for trajectory in found]
    dialogues = [
        _Dialogue(situation, [TrajectoryTurn("user", situation.text, ())])
        for situation in situations
    ]
    for turn in range(1, config.max_turns):
        going = [dialogue for dialogue in dialogues if len(dialogue.turns) == turn]
        if turn % 2 == 1:
            _agent_turn(going, agent, config, seed, candidates, selector)
        else:
            _user_turn(going, user, agent.name, config, seed)
        on_progress(len(dialogues))
    return [
        Trajectory(
            trajectory_id=f"{agent.name}/{dialogue.situation.situation_id}",
            situation_id=dialogue.situation.situation_id,
            situation=dialogue.situation.text,
            emotion=dialogue.situation.emotion,
            turns=tuple(dialogue.turns),
        )
        for dialogue in dialogues
    ]


def opening_exchange(profile: ProfileConfig) -> tuple[Message, Message]:
    """What stands before every dialogue in the agent's context."""
    return Message("user", profile.ask), Message("assistant", profile.consent)


def count_malformed(
    situations: Sequence[Situation], agent: Speaker, config: SelfPlayConfig, seed: int
) -> tuple[int, int]:
    """(malformed, n): first replies whose states are not well formed, under ``config``."""
    requests = [
        _agent_request(_Dialogue(situation, [TrajectoryTurn("user", situation.text, ())]), agent,
                       config, seed, 1)
        for situation in situations
    ]  # fmt: skip
    replies = [completions[0].text for completions in agent.engine.generate(requests)]
    return sum(not is_well_formed(reply) for reply in replies), len(replies)


def without_questions(utterance: str) -> str:
    """The utterance without its questions, unless it is nothing else."""
    sentences = _SENTENCE_END.split(utterance.strip())
    kept = [sentence for sentence in sentences if not sentence.endswith("?")]
    return " ".join(kept or sentences)


@dataclass
class _Dialogue:
    situation: Situation
    turns: list[TrajectoryTurn]

    def utterances(self) -> tuple[Message, ...]:
        return tuple(Message(turn.role, utterance_of(turn.content)) if turn.role == "assistant"
                     else Message(turn.role, turn.content) for turn in self.turns)  # fmt: skip


def _agent_turn(
    dialogues: Sequence[_Dialogue],
    agent: Speaker,
    config: SelfPlayConfig,
    seed: int,
    n: int,
    selector: Selector | None,
) -> None:
    requests = [_agent_request(dialogue, agent, config, seed, n) for dialogue in dialogues]
    answers = agent.engine.generate(requests)
    replies = [_spoken(completions, agent) for completions in answers]
    votes = [dict.fromkeys(texts.values(), 0.0) for texts in replies]
    if selector is not None:
        undecided = [index for index, texts in enumerate(replies) if len(set(texts.values())) > 1]
        ballots = [
            Ballot(
                requests[index].request_id,
                dialogues[index].utterances(),
                tuple(dict.fromkeys(replies[index].values())),
            )
            for index in undecided
        ]
        counted = borda_votes(ballots, selector.engine, selector.config, seed)
        for index, ballot, points in zip(undecided, ballots, counted, strict=True):
            votes[index] = dict(zip(ballot.candidates, points, strict=True))
    for dialogue, texts, points_of, completions in zip(
        dialogues, replies, votes, answers, strict=True
    ):
        if not texts:
            continue
        left_out = completions[0].left_out
        best = max(texts, key=lambda text: points_of[texts[text]])
        turn_candidates = tuple(
            Candidate(text, points_of[utterance], chosen=text == best)
            for text, utterance in texts.items()
        )
        dialogue.turns.append(TrajectoryTurn("assistant", best, turn_candidates, left_out))


def _spoken(completions: Sequence[Completion], speaker: Speaker) -> dict[str, str]:
    """Distinct candidates that say something: text -> utterance, in the order drawn.

    A reply that was cut off inside its states has no utterance: left in, its braces would be taken
    for one.
    """
    texts = dict.fromkeys(completion.text.strip() for completion in completions)
    if speaker.states:
        texts = {t: None for t in texts if is_well_formed(t) or not t.startswith("{")}
    utterances = {text: utterance_of(text) if speaker.states else text for text in texts}
    return {text: utterance.strip() for text, utterance in utterances.items() if utterance.strip()}


def _agent_request(
    dialogue: _Dialogue, agent: Speaker, config: SelfPlayConfig, seed: int, n: int
) -> Request:
    history = tuple(Message(turn.role, turn.content) for turn in dialogue.turns)
    opening = opening_exchange(config.agent_profile)
    return _request(
        f"{agent.name}/{dialogue.situation.situation_id}/{len(dialogue.turns)}/agent",
        (*opening, *history),
        agent,
        config,
        seed,
        n,
        pinned=len(opening) + 1,  # and the situation
    )


def _user_turn(
    dialogues: Sequence[_Dialogue], user: Speaker, agent: str, config: SelfPlayConfig, seed: int
) -> None:
    flipped = {"user": "assistant", "assistant": "user"}
    requests = [
        _request(
            f"{agent}/{dialogue.situation.situation_id}/{len(dialogue.turns)}/user",
            (
                Message("user", config.user_profile),
                *(Message(flipped[m.role], m.content) for m in dialogue.utterances()),
            ),
            user,
            config,
            seed,
            1,
            pinned=2,  # profile and situation
        )
        for dialogue in dialogues
    ]
    for dialogue, completions in zip(dialogues, user.engine.generate(requests), strict=True):
        for utterance in _spoken(completions, user).values():
            if config.trim_user_questions:
                utterance = without_questions(utterance)
            dialogue.turns.append(TrajectoryTurn("user", utterance, (), completions[0].left_out))


def _request(
    request_id: str,
    messages: tuple[Message, ...],
    speaker: Speaker,
    config: SelfPlayConfig,
    seed: int,
    n: int,
    pinned: int,
) -> Request:
    constrained = speaker.states and config.state_grammar
    return Request(
        request_id=request_id,
        messages=messages,
        sampling=config.sampling,
        n=n,
        seed=seed,
        constraint=sac_grammar() if constrained else None,
        opens_with_states=speaker.states,
        pinned=pinned,
    )
