"""What a model sees of a conversation: the one definition for training, search, rollouts, probes,
steering evidence, chat and export.

A speaker sees::

    user       what it is asked to be (its profile)
    assistant  its consent, with states if it speaks State-Action Chains
    user       what the other one said
    assistant  what it said, with its own states
    ...

Whoever speaks is the assistant of its own view, so a simulated user sees the roles flipped. Of the
other one it sees the words only. A speaker that opens the conversation answers its profile with its
first turn, and there is no consent.

The loss is on what the speaker says in reply to the other one: the consent is ours, and an opening
turn answers nothing.

Models that are asked about a conversation (judge, selector, annotator) see its utterances as JSON
strings (:func:`quoted`). A turn with a line break and ``Conversation B:`` would else open a second
conversation, and a mark of a chat template would end the message.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from sage_core.config.conversation import ProfileConfig
from sage_core.sac import (
    AGENT,
    EMPTY,
    USER,
    StateAction,
    StateActionReply,
    render,
    render_state,
    utterance_of,
)
from sage_core.schema import (
    AnnotatedDialogue,
    Loss,
    Message,
    Role,
    TrainingDialogue,
    TrajectoryTurn,
)

# What JSON leaves as it is: line ends of Unicode, characters that reorder text, and halves of
# surrogate pairs, which cannot be sent.
_UNSEEN = "\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
# The first character of what may be a mark of a chat template: <|im_end|>, <think>, [INST],
# <<SYS>>, </s>, <start_of_turn>, ### Instruction
_MARK = r"<(?=[|\uff5c<!/\[]|\w[\w:-]*>)|\[(?=/?\w*[A-Z]{3,}\w*\])|◁|#(?=##)"
_ESCAPED = re.compile(rf"[{_UNSEEN}]|{_MARK}")


@dataclass(frozen=True)
class Said:
    """One turn: ``text`` is the utterance with the states that its speaker wrote before it, if it
    wrote any. ``cut``: its token limit ended it, so how it ends is not the speaker's choice."""

    role: Role
    utterance: str
    text: str
    cut: bool = False


@dataclass(frozen=True)
class View:
    """What one speaker sees.

    Attributes:
        messages: for the chat template.
        loss: of each message, what of it is trained.
        pinned: how many messages at the start stay where the context has no room for all: the
            profile and the opening turn.
    """

    messages: tuple[Message, ...]
    loss: tuple[Loss, ...]
    pinned: int

    def training(self) -> TrainingDialogue:
        """The view as a training example."""
        return TrainingDialogue(self.messages, self.loss)


def view(
    said: Sequence[Said], profile: ProfileConfig, *, states: bool, speaker: Role = "assistant"
) -> View:
    """What ``speaker`` sees of a conversation.

    Args:
        said: the turns, alternating, opened by either role.
        profile: the speaker's.
        states: whether the speaker speaks State-Action Chains.
        speaker: ``assistant`` for the agent, ``user`` for the simulated user.
    """
    messages, loss = [Message("user", profile.ask)], ["none"]
    opens = bool(said) and said[0].role == speaker
    if not opens:
        messages.append(Message("assistant", consent(profile, states=states)))
        loss.append("none")
    pinned = len(messages) + 1
    for place, turn in enumerate(said):
        if turn.role != speaker:
            messages.append(Message("user", turn.utterance))
            loss.append("none")
        else:
            messages.append(Message("assistant", turn.text if states else turn.utterance))
            loss.append("none" if place == 0 else "open" if turn.cut else "whole")
    return View(tuple(messages), tuple(loss), pinned)  # type: ignore[arg-type]


def consent(profile: ProfileConfig, *, states: bool) -> str:
    """The speaker's answer to its profile."""
    return f"{profile.states} {profile.consent}" if states else profile.consent


def of_turns(turns: Sequence[TrajectoryTurn]) -> list[Said]:
    """The turns of self-play."""
    return [
        Said("assistant", utterance_of(turn.content), turn.content, turn.cut)
        if turn.role == "assistant"
        else Said("user", turn.content, f"{turn.states} {turn.content}".lstrip(), turn.cut)
        for turn in turns
    ]


def of_annotated(dialogue: AnnotatedDialogue) -> list[Said]:
    """The turns of a human dialogue. Before each are the state that its speaker sees in the other
    one, which is that of the turn before, and the speaker's own (section 4.2)."""
    said: list[Said] = []
    seen = EMPTY
    for turn in dialogue.turns:
        text = render(StateActionReply(seen, turn.state, turn.utterance))
        said.append(Said("user" if turn.role == "user" else "assistant", turn.utterance, text))
        seen = turn.state
    return said


def opening_states(own: StateAction) -> str:
    """The states of a speaker that opens the conversation: it sees nothing in the other one yet.

    Raises:
        StateFormatError: the format cannot carry ``own``.
    """
    return f"{render_state(EMPTY, USER.written)} {render_state(own, AGENT.written)}"


def shortened(messages: Sequence[Message], pinned: int) -> tuple[Message, ...] | None:
    """The messages without the two oldest ones after the pinned ones, so that the speakers still
    alternate; None where nothing may go."""
    if len(messages) - pinned < 3:  # the last one is what is answered
        return None
    return (*messages[:pinned], *messages[pinned + 2 :])


def quoted(text: str) -> str:
    """``text`` as a JSON string on one line, without the marks of chat templates."""
    return _ESCAPED.sub(_code, json.dumps(text, ensure_ascii=False))


def one_line(text: str) -> str:
    """``text`` with line breaks and marks escaped as in JSON, without the quotes around it.

    For prompts that a small model scores: most texts stay as they are.
    """
    return quoted(text)[1:-1].replace('\\"', '"').replace("\\\\", "\\")


def _code(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
