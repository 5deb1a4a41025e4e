"""Dialogues as token ids, with the segment of the reply that each token belongs to.

Text is rendered and encoded by :class:`sage_core.engines.prompts.Prompts`, from which the engines
take their prompts too. A token belongs to the segment that its last character is in; the space
between two segments opens the later one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix
from typing import Any, TypeVar

from sage_core.engines.prompts import Prompts
from sage_core.sac import ends_of_states
from sage_core.schema import Message, PreferencePair, TrainingDialogue

Example = TypeVar("Example")
NO_LOSS, STATE, ACTION, UTTERANCE = range(4)
SEGMENTS = ("state", "action", "utterance")  # from STATE on


@dataclass(frozen=True)
class Encoded:
    """Token ids (T,), and the segment of each (T,): NO_LOSS, STATE, ACTION or UTTERANCE."""

    ids: list[int]
    segments: list[int]


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of a prompt and of its two replies; the tokens that end them are included, unless a
    reply was cut."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


class Encoder:
    """Encodes for one tokenizer with a chat template."""

    def __init__(self, tokenizer: Any) -> None:
        self._prompts = Prompts(tokenizer)

    def parts(self, example: Example) -> list[Example]:
        """What an example is trained as: itself, or, where the template shows an earlier reply
        otherwise than the last one (Qwen3 writes its thoughts before the last one only), a
        conversation for each of its replies."""
        if not isinstance(example, TrainingDialogue):
            return [example]
        trained = [number for number, loss in enumerate(example.losses) if loss != "none"]
        if all(self._prompts.template.keeps(example.messages, number) for number in trained):
            return [example]
        return [
            replace(
                example,
                messages=example.messages[: number + 1],
                loss=(*["none"] * number, example.losses[number]),  # type: ignore[arg-type]
            )
            for number in trained
        ]

    def dialogue(self, dialogue: TrainingDialogue) -> Encoded:
        """A whole conversation, with the loss on what :attr:`TrainingDialogue.losses` names."""
        rendered = self._prompts.render(dialogue.messages)
        losses = [
            loss
            for message, loss in zip(dialogue.messages, dialogue.losses, strict=True)
            if message.role == "assistant"
        ]
        segments = [NO_LOSS] * len(rendered.ids)
        for (start, end), (first, last), loss in zip(
            rendered.replies, rendered.contents, losses, strict=True
        ):
            if loss == "none":
                continue
            states = ends_of_states(rendered.text[first:last])
            state_end, action_end = (first + each for each in states)
            for token in range(start, end):
                if loss == "open" and rendered.places[token] >= last:
                    break
                # A space before the reply opens what follows it.
                place = max(rendered.places[token], first)
                if place < state_end:
                    segments[token] = STATE
                elif place < action_end:
                    segments[token] = ACTION
                else:
                    segments[token] = UTTERANCE
        return Encoded(rendered.ids, segments)

    def length(self, messages: Sequence[Message]) -> int:
        """Tokens of a whole conversation."""
        return len(self._prompts.render(messages).ids)

    def pair(self, pair: PreferencePair) -> EncodedPair:
        """A prompt up to where the reply starts, and the replies."""
        replies = ((pair.chosen, pair.chosen_cut), (pair.rejected, pair.rejected_cut))
        chosen, rejected = (
            self.dialogue(
                TrainingDialogue(
                    (*pair.prompt, Message("assistant", reply)),
                    (*["none"] * len(pair.prompt), "open" if cut else "whole"),  # type: ignore[arg-type]
                )
            )
            for reply, cut in replies
        )
        start = min(self._reply(each)[0] for each in (chosen, rejected))
        # A token that joins the prompt's end to a reply may differ between the two.
        start = len(commonprefix([chosen.ids[:start], rejected.ids[:start]]))
        return EncodedPair(
            chosen.ids[:start],
            chosen.ids[start : self._reply(chosen)[1]],
            rejected.ids[start : self._reply(rejected)[1]],
        )

    def _reply(self, encoded: Encoded) -> tuple[int, int]:
        """Where the tokens of the only trained reply start and end."""
        trained = [at for at, segment in enumerate(encoded.segments) if segment != NO_LOSS]
        return trained[0], trained[-1] + 1
