"""A dialogue of self-play under way, and what its two speakers are asked.

Who sees what: the agent sees its own earlier states; the user model and the selector see utterances
only. The user model is a State-Action model as well (``m1``, section 4.4), with the roles flipped:
its states are its own affair and are dropped. Only its first state is not its own: as in the
paper's release it is set to what the agent, in its first reply, took the user's state for. That
is done by letting the reply go on from the written states (``Request.prefix``), which every engine
that plays the user can do, and which lets all dialogues of a batch share one grammar.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from sage_core.config import ProfileConfig, SelfPlayConfig
from sage_core.engines.base import Completion, Constraint, Engine, Request
from sage_core.engines.grammar import sac_grammar, user_grammar, utterance_grammar
from sage_core.errors import ContextError, StateFormatError
from sage_core.sac import (
    AGENT,
    EMPTY,
    USER,
    StateAction,
    is_well_formed,
    parse,
    render_state,
    utterance_of,
)
from sage_core.schema import Message, NodeKind, SearchNode, Showing, Situation, TrajectoryTurn

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Speaker:
    """A model in a conversation; ``states`` says whether it speaks State-Action Chains."""

    name: str
    engine: Engine
    states: bool


@dataclass
class Dialogue:
    """A conversation under way.

    Attributes:
        line: its name in request ids, from which draws are seeded: the situation's id, and which of
            several dialogues or branches it is.
        ended: why it has no further turn, or '' while it goes on.
        nodes: its search tree so far; ``tip`` is the node of its last turn.
        showings: what its selector was shown.
        generated_tokens: drawn for it so far.
    """

    situation: Situation
    line: str
    turns: list[TrajectoryTurn]
    ended: str = ""
    nodes: list[SearchNode] = field(default_factory=list)
    tip: int = 0
    showings: list[Showing] = field(default_factory=list)
    generated_tokens: int = 0

    def utterances(self) -> tuple[Message, ...]:
        """What was said, without states."""
        return tuple(Message(turn.role, utterance_of(turn.content)) if turn.role == "assistant"
                     else Message(turn.role, turn.content) for turn in self.turns)  # fmt: skip

    def count(self, completions: Sequence[Completion]) -> None:
        self.generated_tokens += sum(each.completion_tokens for each in completions)


def opened(situation: Situation, line: str) -> Dialogue:
    """The dialogue whose first turn is the situation."""
    return Dialogue(situation, line, [TrajectoryTurn("user", situation.text, ())])


def opening_exchange(profile: ProfileConfig) -> tuple[Message, Message]:
    """What stands before every dialogue in the agent's context."""
    return Message("user", profile.ask), Message("assistant", profile.consent)


def agent_request(
    dialogue: Dialogue, agent: Speaker, config: SelfPlayConfig, seed: int, n: int, attempt: int = 0
) -> Request:
    """The agent's next reply, in ``n`` candidates; each attempt has draws of its own."""
    history = tuple(Message(turn.role, turn.content) for turn in dialogue.turns)
    opening = opening_exchange(config.agent_profile)
    again = f".{attempt}" if attempt else ""
    return Request(
        request_id=f"{agent.name}/{dialogue.line}/{len(dialogue.turns)}/agent{again}",
        messages=(*opening, *history),
        sampling=config.sampling,
        n=n,
        seed=seed,
        constraint=sac_grammar() if agent.states and config.state_grammar else None,
        opens_with_states=agent.states,
        pinned=len(opening) + 1,  # and the situation
    )


def user_turn(
    dialogues: Sequence[Dialogue], user: Speaker, agent: Speaker, config: SelfPlayConfig, seed: int
) -> None:
    """Let the user answer in every dialogue, or end it with the reason why not."""
    first = [dialogue for dialogue in dialogues if user.states and len(dialogue.turns) == 2]
    prefixes, notes = _first_states(first, user, agent, config, seed)
    requests = []
    for dialogue in dialogues:
        prefix = prefixes.get(dialogue.line, "")
        constraint: Constraint | None = None
        if user.states and config.state_grammar:
            constraint = utterance_grammar() if prefix else sac_grammar()
        requests.append(
            _user_request(
                dialogue, "user", user, agent, config, seed, constraint=constraint, prefix=prefix
            )
        )
    for dialogue, answer in zip(dialogues, answered(user.engine.generate, requests), strict=True):
        if isinstance(answer, ContextError):
            dialogue.ended = f"context_full: {answer}"
            continue
        dialogue.count(answer)
        prefix = prefixes.get(dialogue.line, "")
        said = list(spoken(answer, states=user.states and not prefix).values())
        if not said:
            cut = user.states and not prefix and cut_in_states(answer)
            dialogue.ended = "user_states_never_closed" if cut else "user_silent"
            continue
        utterance = without_questions(said[0]) if config.trim_user_questions else said[0]
        say(
            dialogue,
            TrajectoryTurn("user", utterance, (), answer[0].left_out, notes.get(dialogue.line, ())),
        )


def say(dialogue: Dialogue, turn: TrajectoryTurn) -> None:
    """Add a turn that there was no choice of."""
    dialogue.turns.append(turn)
    dialogue.tip = grow(dialogue, dialogue.tip, "reply", turn.role, turn.content, chosen=True)


def grow(
    dialogue: Dialogue,
    parent: int,
    kind: NodeKind,
    role: str,
    content: str,
    *,
    votes: float | None = None,
    chosen: bool = False,
) -> int:
    """Add a node to the dialogue's search tree; its number. The situation is node 0."""
    number = len(dialogue.nodes) + 1
    dialogue.nodes.append(SearchNode("", number, parent, kind, role, content, votes, chosen))
    return number


def spoken(completions: Sequence[Completion], *, states: bool) -> dict[str, str]:
    """Distinct candidates that say something: text -> utterance, in the order drawn.

    A reply that was cut off inside its states has no utterance: left in, its braces would be taken
    for one.
    """
    texts = dict.fromkeys(completion.text.strip() for completion in completions)
    if states:
        texts = {t: None for t in texts if is_well_formed(t) or not t.startswith("{")}
    utterances = {text: utterance_of(text) if states else text for text in texts}
    return {text: utterance.strip() for text, utterance in utterances.items() if utterance.strip()}


def cut_in_states(completions: Sequence[Completion]) -> bool:
    """Whether a reply of a model with states ended inside them."""
    texts = [completion.text.strip() for completion in completions]
    return any(
        text.startswith("{") and not is_well_formed(text) and utterance_of(text).strip()
        for text in texts
    )


def without_questions(utterance: str) -> str:
    """The utterance without its questions, unless it is nothing else."""
    sentences = _SENTENCE_END.split(utterance.strip())
    kept = [sentence for sentence in sentences if not sentence.endswith("?")]
    return " ".join(kept or sentences)


def answered(
    ask: Callable[[Sequence[Item]], Sequence[Answer]], items: Sequence[Item]
) -> list[Answer | ContextError]:
    """The answers, with the error in place of those whose prompt is too long for the context.

    Engines answer all or none, so a call that fails is halved until the items at fault are alone.
    """
    if not items:
        return []
    try:
        return list(ask(items))
    except ContextError as error:
        if len(items) == 1:
            return [error]
        middle = len(items) // 2
        return answered(ask, items[:middle]) + answered(ask, items[middle:])


def _user_request(
    dialogue: Dialogue,
    part: str,
    user: Speaker,
    agent: Speaker,
    config: SelfPlayConfig,
    seed: int,
    *,
    constraint: Constraint | None,
    prefix: str = "",
) -> Request:
    flipped = {"user": "assistant", "assistant": "user"}
    return Request(
        request_id=f"{agent.name}/{dialogue.line}/{len(dialogue.turns)}/{part}",
        messages=(
            Message("user", config.user_profile),
            *(Message(flipped[m.role], m.content) for m in dialogue.utterances()),
        ),
        sampling=config.sampling,
        seed=seed,
        constraint=constraint,
        opens_with_states=user.states and not prefix,
        prefix=prefix,
        pinned=2,  # profile and situation
    )


def _first_states(
    dialogues: Sequence[Dialogue], user: Speaker, agent: Speaker, config: SelfPlayConfig, seed: int
) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """By line, the states that the user's first reply starts with, and notes on what is not set:
    first what the user sees in the agent, which is left to it, then its own state as the agent saw
    it."""
    inferred = {dialogue.line: parse(dialogue.turns[1].content).user for dialogue in dialogues}
    if not agent.states:
        return {}, {}
    if not user.engine.capabilities.prefix:
        note = (f"user_state_not_set: the engine '{user.engine.name}' cannot go on from a text",)
        return {}, {dialogue.line: note for dialogue in dialogues}
    known = [dialogue for dialogue in dialogues if inferred[dialogue.line] != EMPTY]
    constraint = user_grammar() if config.state_grammar else None
    requests = [
        _user_request(dialogue, "user-sees", user, agent, config, seed, constraint=constraint)
        for dialogue in known
    ]
    prefixes, notes = {}, {}
    for dialogue, answer in zip(known, answered(user.engine.generate, requests), strict=True):
        if isinstance(answer, ContextError):
            continue  # the reply itself, whose prompt is longer, says so
        dialogue.count(answer)
        own, notes[dialogue.line] = _writable(inferred[dialogue.line])
        sees, _ = _writable(parse(answer[0].text).user)
        prefixes[dialogue.line] = (
            f"{render_state(sees, USER.written)} {render_state(own, AGENT.written)}"
        )
    return prefixes, notes


def _writable(state: StateAction) -> tuple[StateAction, tuple[str, ...]]:
    """The values that the agent's group can carry as well, and a note on each of the others."""
    parts = {
        "motivation": StateAction(state.motivation, None, ()),
        "emotion": StateAction(None, state.emotion, ()),
        "topic": StateAction(None, None, state.topics),
    }
    notes = []
    for name, part in parts.items():
        try:
            for prefix in (USER.written, AGENT.written):
                render_state(part, prefix)
        except StateFormatError:
            parts[name] = EMPTY
            notes.append(f"user_state_not_set: {name}")
    kept = StateAction(
        parts["motivation"].motivation, parts["emotion"].emotion, parts["topic"].topics
    )
    return kept, tuple(notes)
