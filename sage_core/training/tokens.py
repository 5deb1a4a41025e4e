"""Dialogues as token ids, with the segment of the reply that each token belongs to.

Text is encoded as the engines encode prompts: a content that spells a mark of the chat template is
plain text. A token belongs to the segment that its last character is in; the space between two
segments opens the later one.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os.path import commonprefix
from typing import Any

from sage_core.engines.marks import Marks
from sage_core.sac import ends_of_states
from sage_core.schema import Message, PreferencePair

NO_LOSS, STATE, ACTION, UTTERANCE = range(4)
SEGMENTS = ("state", "action", "utterance")  # from STATE on


@dataclass(frozen=True)
class Encoded:
    """Token ids (T,), and the segment of each (T,): NO_LOSS, STATE, ACTION or UTTERANCE."""

    ids: list[int]
    segments: list[int]


@dataclass(frozen=True)
class EncodedPair:
    """Token ids of a prompt and of its two replies, the tokens that end them included."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


class Encoder:
    """Encodes for one tokenizer, whose chat template marks the assistant's messages with
    ``{% generation %}``."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._marks = Marks(tokenizer)

    def dialogue(self, messages: Sequence[Message]) -> Encoded:
        """A whole conversation; the loss is on what the assistant says and where it ends."""
        text, replies = self._render(messages)
        ids, places = self._marks.encode_with_places(text)
        contents = [
            self._marks.shield(message.content)
            for message in messages
            if message.role == "assistant"
        ]
        segments = [NO_LOSS] * len(ids)
        token = 0
        for (start, end), content in zip(replies, contents, strict=True):
            said = max(text.find(content, start, end), start)
            state_end, action_end = (said + each for each in ends_of_states(content))
            while token < len(ids) and places[token] < start:
                token += 1
            while token < len(ids) and places[token] < end:
                if places[token] < state_end:
                    segments[token] = STATE
                elif places[token] < action_end:
                    segments[token] = ACTION
                else:
                    segments[token] = UTTERANCE
                token += 1
        return Encoded(ids, segments)

    def length(self, messages: Sequence[Message]) -> int:
        """Tokens of a whole conversation."""
        return len(self._marks.encode(self._render(messages)[0]))

    def pair(self, pair: PreferencePair) -> EncodedPair:
        """A prompt up to where the reply starts, and the replies."""
        chosen, rejected = (
            self.dialogue((*pair.prompt, Message("assistant", reply)))
            for reply in (pair.chosen, pair.rejected)
        )
        start = min(self._last_reply(each)[0] for each in (chosen, rejected))
        # A token that joins the prompt's end to a reply may differ between the two.
        start = len(commonprefix([chosen.ids[:start], rejected.ids[:start]]))
        return EncodedPair(
            chosen.ids[:start],
            chosen.ids[start : self._last_reply(chosen)[1]],
            rejected.ids[start : self._last_reply(rejected)[1]],
        )

    def _last_reply(self, encoded: Encoded) -> tuple[int, int]:
        """Where the tokens of the last reply start and end."""
        end = len(encoded.ids)
        while encoded.segments[end - 1] == NO_LOSS:
            end -= 1
        start = end
        while start and encoded.segments[start - 1] != NO_LOSS:
            start -= 1
        return start, end

    def _render(self, messages: Sequence[Message]) -> tuple[str, list[tuple[int, int]]]:
        """The text, and from where to where the assistant's messages stand in it."""
        from transformers.utils.chat_template_utils import render_jinja_template

        shielded = [{**asdict(m), "content": self._marks.shield(m.content)} for m in messages]
        texts, spans = render_jinja_template(
            conversations=[shielded],
            chat_template=self._tokenizer.chat_template,
            return_assistant_tokens_mask=True,
            **self._tokenizer.special_tokens_map,
        )
        return texts[0], spans[0]
