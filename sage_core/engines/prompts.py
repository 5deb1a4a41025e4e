"""Conversations as token ids, the same for training and for use.

A prompt is what stands before the reply in the rendered training example: the conversation is
rendered with a reply, and the tokens before the first one that holds a character of the reply are
the prompt. So the seam between prompt and reply is where training put it, also for tokenizers that
join the space before a reply to its first word (``▁{``), and a forced start of the reply changes no
token before it.

Both engines that know the model's tokenizer read prompts through here, so the same request has the
same tokens on either.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from sage_core.engines.base import Constraint, Request, shortened
from sage_core.engines.grammar import led
from sage_core.engines.special_tokens import SpecialTokens
from sage_core.errors import ConfigError, ContextError, DataError
from sage_core.schema import Message

_SHORT = (Message("user", "-"),)
_REPLIES = ("{", "x", "1", '"', "\u00dc")  # first characters that a tokenizer may treat apart


@dataclass(frozen=True)
class Rendered:
    """A conversation as text and tokens.

    Attributes:
        text: the rendered template, contents shielded (:mod:`sage_core.engines.special_tokens`).
        replies: where each assistant message starts and ends in ``text``, with spaces that the
            template puts before it (a tokenizer may join them to the first word, and where it does
            not, the model has to write them all the same) and the token that ends it.
        contents: where the content of each assistant message starts and ends in ``text``.
        ids: token ids (T,).
        places: where the last character of each token stands in ``text``, (T,).
    """

    text: str
    replies: list[tuple[int, int]]
    contents: list[tuple[int, int]]
    ids: list[int]
    places: list[int]

    @property
    def first(self) -> int:
        """The number of the first token of the last reply."""
        start = self.replies[-1][0]
        return next(at for at, place in enumerate(self.places) if place >= start)


class Prompts:
    """Renders conversations for one tokenizer, whose chat template marks the assistant's messages
    with ``{% generation %}``, and a context of ``max_context`` tokens (0 = no limit)."""

    def __init__(self, tokenizer: Any, max_context: int = 0) -> None:
        self._tokenizer = tokenizer
        self._max_context = max_context
        self._special_tokens = SpecialTokens(tokenizer)
        self._options: dict[tuple[str, str], list[int]] = {}

    def render(self, messages: Sequence[Message]) -> Rendered:
        """A whole conversation.

        Raises:
            DataError: the chat template refuses it.
        """
        from transformers.utils.chat_template_utils import render_jinja_template

        shielded = [
            {**asdict(m), "content": self._special_tokens.shield(m.content)} for m in messages
        ]
        try:
            texts, spans = render_jinja_template(
                conversations=[shielded],
                chat_template=self._tokenizer.chat_template,
                return_assistant_tokens_mask=True,
                **self._tokenizer.special_tokens_map,
            )
        except Exception as error:  # whatever the template raises
            raise DataError(
                f"the model's chat template refuses this conversation ({error}); the roles are "
                f"{', '.join(message.role for message in messages)}"
            ) from error
        text, replies = texts[0], spans[0]
        replies = [(_before_spaces(text, start), end) for start, end in replies]
        contents = []
        said = [each["content"] for each in shielded if each["role"] == "assistant"]
        for (start, end), content in zip(replies, said, strict=True):
            first = max(text.find(content, start, end), start)
            contents.append((first, first + len(content)))
        ids, places = self._special_tokens.encode_with_places(text)
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
        ConfigError: its chat template refuses the profile exchange, or its tokenizer joins the end
            of a prompt to the start of a reply, so that the prompt depends on the reply.
    """
    exchange = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    try:
        prompts = Prompts(tokenizer)
        rendered = [prompts.with_reply(exchange, reply) for reply in replies]
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


def _before_spaces(text: str, start: int) -> int:
    return len(text[:start].rstrip(" "))
