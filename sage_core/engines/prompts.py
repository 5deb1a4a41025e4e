"""Conversations as token ids, the same for training and for use.

A prompt is what comes before the reply in the rendered training example: the conversation is
rendered with a reply, and the tokens before the first one that holds a character of the reply are
the prompt. So the seam between prompt and reply is where training put it, also for tokenizers that
join the space before a reply to its first word (``▁{``), and a forced start of the reply changes no
token before it.

Both engines that know the model's tokenizer read prompts through here, so the same request has the
same tokens on either.
"""

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from sage_core.engines.base import Constraint, Request, shortened
from sage_core.engines.grammar import led
from sage_core.engines.special_tokens import SpecialTokens
from sage_core.engines.template import ChatTemplate, difference
from sage_core.errors import ConfigError, ContextError, DataError
from sage_core.schema import Message

_SHORT = (Message("user", "-"),)
_REPLIES = ("{", "x", "1", '"', "\u00dc")  # first characters that a tokenizer may treat apart


@dataclass(frozen=True)
class Rendered:
    """A conversation as text and tokens.

    Attributes:
        text: the rendered template, contents shielded (:mod:`sage_core.engines.special_tokens`).
        replies: where each assistant message starts and ends in ``ids``, with spaces that the
            template puts before it (a tokenizer may join them to the first word, and where it does
            not, the model has to write them all the same) and the token that ends it.
        contents: where the content of each assistant message starts and ends in ``text``.
        ids: token ids (T,).
        places: the place of each token's last character in ``text``, (T,).
    """

    text: str
    replies: list[tuple[int, int]]
    contents: list[tuple[int, int]]
    ids: list[int]
    places: list[int]

    @property
    def first(self) -> int:
        """The number of the first token of the last reply."""
        return self.replies[-1][0]


class Prompts:
    """Renders conversations for one tokenizer with a chat template, and a context of
    ``max_context`` tokens (0 = no limit).

    Raises:
        DataError: see :class:`sage_core.engines.template.ChatTemplate`.
    """

    def __init__(self, tokenizer: Any, max_context: int = 0) -> None:
        self._max_context = max_context
        self.template = ChatTemplate(tokenizer)
        self._special_tokens = SpecialTokens(tokenizer)
        self._options: dict[tuple[str, str], list[int]] = {}

    def render(self, messages: Sequence[Message]) -> Rendered:
        """A whole conversation.

        Raises:
            DataError: the chat template refuses it.
        """
        shielded = [replace(m, content=self._special_tokens.shield(m.content)) for m in messages]
        text, found = self.template.write(shielded)
        ids, places = self._special_tokens.encode_with_places(text)
        replies = []
        for reply in found:
            start = bisect_left(places, _before_spaces(text, reply.start))
            end = bisect_left(places, reply.end if reply.end_token is None else reply.end_token)
            replies.append((start, end + (reply.end_token is not None)))
        contents = [(reply.start, reply.end) for reply in found]
        return Rendered(text, replies, contents, ids, places)

    def fit(self, request: Request) -> tuple[list[int], int]:
        """Token ids of the conversation, up to where the completion starts, and how many messages
        the context had no room for (see :attr:`Request.pinned`).

        Raises:
            ContextError: what has to stay is too long.
        """
        left_out = 0
        while True:
            ids = self._before(request.messages, request.prefix)
            room = self._max_context - request.sampling.budget(request.opens_with_states)
            if not self._max_context or len(ids) <= room:
                return ids, left_out
            shorter = shortened(request)
            if shorter is None:
                raise ContextError(
                    f"the prompt of '{request.request_id}' has {len(ids)} tokens, but "
                    f"model.max_context leaves room for {room}; raise model.max_context or lower "
                    "max_turns or max_new_tokens"
                )
            left_out += len(request.messages) - len(shorter.messages)
            request = shorter

    def option(self, prefix: str, option: str) -> list[int]:
        """Token ids of a text in the place of the completion, behind ``prefix``; what was said
        before has no part in them."""
        if (prefix, option) not in self._options:
            before = self._before(_SHORT, prefix)
            self._options[prefix, option] = self._before(_SHORT, prefix + option)[len(before) :]
        return self._options[prefix, option]

    @cached_property
    def lead(self) -> str:
        """What the first token of a reply holds before its first character: a space, or nothing."""
        rendered = self.with_reply(_SHORT, "x")
        start, (said, _) = rendered.first, rendered.contents[-1]
        before = rendered.places[start - 1] + 1 if start else 0
        return rendered.text[before:said]

    def led(self, constraint: Constraint) -> Constraint:
        """The constraint as the reply's first token meets it; a JSON schema stays as it is."""
        if not self.lead or constraint.kind != "grammar":
            return constraint
        return replace(constraint, text=led(constraint.text, json.dumps(self.lead)))

    def _before(self, messages: Sequence[Message], start: str) -> list[int]:
        """The tokens up to the reply and, of the reply, those of ``start``."""
        rendered = self.with_reply(messages, start or "x")
        if not start:
            return rendered.ids[: rendered.first]
        said = rendered.contents[-1][1]
        end = len(rendered.ids)
        while end and rendered.places[end - 1] >= said:
            end -= 1
        return rendered.ids[:end]

    def with_reply(self, messages: Sequence[Message], reply: str) -> Rendered:
        """A conversation that ends with a reply."""
        return self.render((*messages, Message("assistant", reply)))


def check(tokenizer: Any, base: str, replies: Sequence[str] = _REPLIES) -> None:
    """Check that the model ``base`` can be asked as it is trained, for ``replies``.

    Raises:
        ConfigError: its chat template refuses the profile exchange, changes it, or starts a reply
            in another way than it shows one; or its tokenizer joins the end of a prompt to the
            start of a reply, so that the prompt depends on the reply.
    """
    exchange = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    try:
        prompts = Prompts(tokenizer)
        rendered = [prompts.with_reply(exchange, reply) for reply in replies]
        asked = prompts.template.asked(exchange).rstrip(" ")
    except DataError as error:
        raise ConfigError(f"model.base = '{base}' cannot be used: {error}") from error
    before = {tuple(each.ids[: each.first]) for each in rendered}
    if len(before) > 1 or prompts.lead.strip():
        raise ConfigError(
            f"the tokenizer of model.base = '{base}' joins the end of a prompt to the first "
            f"characters of a reply ({prompts.lead!r}), so no prompt is the start of its training "
            "example; end the template's generation prompt with a token of its own, such as a "
            "line end"
        )
    shown = rendered[0].text[: rendered[0].contents[-1][0]]
    if not shown.startswith(asked):
        raise ConfigError(
            f"the chat template of model.base = '{base}' starts a reply that is asked for in "
            f"another way than it shows one: {difference(asked, shown)}; set the template's own "
            "arguments with model.chat_template_arguments, such as {enable_thinking: false}"
        )


def _before_spaces(text: str, start: int) -> int:
    return len(text[:start].rstrip(" "))
