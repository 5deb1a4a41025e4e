"""A dialogue of self-play under way, and what its two speakers are asked.

What each of them sees is :func:`sage_core.conversation.view`; the selector sees utterances only.
The user model is a State-Action model as well (``m1``, section 4.4): it sees the states that it
wrote before its own turns, and nobody else does. The situation is its first turn, which it did not
write; the states before it are those that it reads in the situation as an agent would. (The paper's
release takes them from the agent. The agents that are compared would then meet different users, and
m0 and raw, which infer no state, a user without one.) Its draws do not depend on the agent either.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sage_core.config.conversation import ProfileConfig, SelfPlayConfig
from sage_core.conversation import Said, of_turns, opening_states, view
from sage_core.engines.answered import answered
from sage_core.engines.base import Completion, Engine, Request
from sage_core.engines.grammar import sac_grammar, user_grammar
from sage_core.errors import ContextError, ItemError, StateFormatError
from sage_core.languages import is_question
from sage_core.sac import is_well_formed, parse, utterance_of
from sage_core.schema import (
    Message,
    NodeKind,
    Role,
    SearchNode,
    Showing,
    Situation,
    TrajectoryTurn,
)
from sage_core.states import EMPTY, FIELDS, StateAction

FAILED = "request_failed"
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class Speaker:
    """A model in a conversation.

    Attributes:
        states: whether it speaks State-Action Chains.
        profile: what opens its view of every conversation.
    """

    name: str
    engine: Engine
    states: bool
    profile: ProfileConfig


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
        return tuple(Message(said.role, said.utterance) for said in of_turns(self.turns))

    def count(self, completions: Sequence[Completion]) -> None:
        self.generated_tokens += sum(each.completion_tokens for each in completions)


def opened(situation: Situation, line: str) -> Dialogue:
    """The dialogue whose first turn is the situation."""
    return Dialogue(situation, line, [TrajectoryTurn("user", situation.text, ())])


def set_user_states(
    dialogues: Sequence[Dialogue],
    user: Speaker,
    agent_profile: ProfileConfig,
    config: SelfPlayConfig,
    seed: int,
) -> None:
    """Give the situation of each dialogue the states that the user model reads in it.

    The request is the agent's of a first reply, of which the user's group alone is drawn.
    """
    if not user.states:
        return
    first = {dialogue.situation.situation_id: dialogue for dialogue in dialogues}
    requests = []
    for name, dialogue in first.items():
        seen = view(of_turns(dialogue.turns), agent_profile, states=True)
        requests.append(
            Request(
                request_id=f"user/{name}/opening",
                messages=seen.messages,
                sampling=config.sampling,
                seed=seed,
                constraint=user_grammar() if config.state_grammar else None,
                opens_with_states=True,
                pinned=seen.pinned,
            )
        )
    states: dict[str, tuple[str, tuple[str, ...]]] = {}
    for name, answer in zip(first, answered(user.engine.generate, requests), strict=True):
        if isinstance(answer, ItemError):
            states[name] = "", _noted(answer)
        else:
            states[name] = _opening(parse(answer[0].text.strip()).user)
            first[name].count(answer)
    for dialogue in dialogues:
        written, notes = states[dialogue.situation.situation_id]
        dialogue.turns[0] = replace(dialogue.turns[0], states=written, notes=notes)


def agent_request(
    dialogue: Dialogue, agent: Speaker, config: SelfPlayConfig, seed: int, n: int, attempt: int = 0
) -> Request:
    """The agent's next reply, in ``n`` candidates; each attempt has draws of its own."""
    again = f".{attempt}" if attempt else ""
    return _request(
        f"{agent.name}/{dialogue.line}/{len(dialogue.turns)}/agent{again}",
        of_turns(dialogue.turns), agent, "assistant", config, seed, n,
    )  # fmt: skip


def user_turn(
    dialogues: Sequence[Dialogue], user: Speaker, config: SelfPlayConfig, seed: int
) -> None:
    """Let the user answer in every dialogue, or end it with the reason why not."""
    requests = [
        _request(
            f"user/{dialogue.line}/{len(dialogue.turns)}",
            of_turns(dialogue.turns), user, "user", config, seed, 1,
        )
        for dialogue in dialogues
    ]  # fmt: skip
    for dialogue, answer in zip(dialogues, answered(user.engine.generate, requests), strict=True):
        if isinstance(answer, ItemError):
            dialogue.ended = ending(answer)
            continue
        dialogue.count(answer)
        replies = spoken(answer, states=user.states)
        if not replies:
            cut = user.states and cut_in_states(answer)
            dialogue.ended = "user_states_never_closed" if cut else "user_silent"
            continue
        (reply,) = replies
        utterance = finished_sentences(reply.utterance) if reply.cut else reply.utterance
        if config.trim_user_questions:
            utterance = without_questions(utterance)
        turn = TrajectoryTurn(
            "user", utterance, (), answer[0].left_out, (), cut=reply.cut, states=reply.states
        )
        say(dialogue, turn)


def _request(
    request_id: str,
    said: Sequence[Said],
    speaker: Speaker,
    role: Role,
    config: SelfPlayConfig,
    seed: int,
    n: int,
) -> Request:
    seen = view(said, speaker.profile, states=speaker.states, speaker=role)
    return Request(
        request_id=request_id,
        messages=seen.messages,
        sampling=config.sampling,
        n=n,
        seed=seed,
        constraint=sac_grammar() if speaker.states and config.state_grammar else None,
        opens_with_states=speaker.states,
        pinned=seen.pinned,
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


@dataclass(frozen=True)
class Reply:
    """A candidate that says something: ``text`` is ``states`` and ``utterance``; ``cut``: it
    reached its token limit."""

    text: str
    states: str
    utterance: str
    cut: bool


def spoken(completions: Sequence[Completion], *, states: bool) -> list[Reply]:
    """The distinct candidates that say something, in the order drawn.

    A reply that was cut off inside its states has no utterance: left in, its braces would be taken
    for one.
    """
    replies: dict[str, Reply] = {}
    for completion in completions:
        text = completion.text.strip()
        if completion.finish_reason == "refused":
            continue
        if states and text.startswith("{") and not is_well_formed(text):
            continue
        utterance = utterance_of(text).strip() if states else text
        if utterance:
            written = text.removesuffix(utterance).rstrip()
            cut = completion.finish_reason == "length"
            replies.setdefault(text, Reply(text, written, utterance, cut))
    return list(replies.values())


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
    kept = [sentence for sentence in sentences if not is_question(sentence)]
    return " ".join(kept or sentences)


def finished_sentences(utterance: str) -> str:
    """A cut utterance without its unfinished last sentence, unless it is nothing else."""
    sentences = _SENTENCE_END.split(utterance.strip())
    return " ".join(sentences[:-1]) if len(sentences) > 1 else utterance


def ending(error: ItemError) -> str:
    """How a dialogue ends whose next reply cannot be asked for."""
    reason = "context_full" if isinstance(error, ContextError) else FAILED
    return f"{reason}: {error}"


def _noted(error: ItemError) -> tuple[str, ...]:
    """The note on a situation whose states were not read. Where its context is full, the reply
    itself, whose prompt is as long, says so."""
    if isinstance(error, ContextError):
        return ()
    return (f"user_state_not_set: {error.outcome}",)


def _opening(own: StateAction) -> tuple[str, tuple[str, ...]]:
    """The states before the situation, and a note on each value that they cannot carry."""
    kept = EMPTY
    notes = []
    for each in FIELDS:
        values = each.of(own)
        try:
            opening_states(each.put(EMPTY, values))
            kept = each.put(kept, values)
        except StateFormatError:
            notes.append(f"user_state_not_set: {each.name}")
    return opening_states(kept), tuple(notes)
