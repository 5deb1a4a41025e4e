"""Conversations as token ids: the chat template, its marks kept apart, the limit of the context.

Both engines that know the model's tokenizer read prompts through here, so the same request has the
same tokens on either.
"""

from typing import Any

from sage_core.engines.base import Request, shortened
from sage_core.engines.marks import Marks
from sage_core.errors import ContextError


class Prompts:
    """Renders requests for one tokenizer and a context of ``max_context`` tokens."""

    def __init__(self, tokenizer: Any, max_context: int) -> None:
        self._tokenizer = tokenizer
        self._max_context = max_context
        self._marks = Marks(tokenizer)

    def fit(self, request: Request) -> tuple[list[int], int]:
        """Token ids of the conversation, up to where the completion starts, and how many messages
        the context had no room for (see :attr:`Request.pinned`).

        Raises:
            ContextError: what has to stay is too long.
        """
        left_out = 0
        while True:
            try:
                return self._encode(request), left_out
            except ContextError:
                shorter = shortened(request)
                if shorter is None:
                    raise
                left_out += len(request.messages) - len(shorter.messages)
                request = shorter

    def _encode(self, request: Request) -> list[int]:
        marks = self._marks
        messages = [{"role": m.role, "content": marks.shield(m.content)} for m in request.messages]
        text = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        ids = marks.encode(text + marks.shield(request.prefix))
        room = self._max_context - request.sampling.max_new_tokens
        if len(ids) > room:
            raise ContextError(
                f"the prompt of '{request.request_id}' has {len(ids)} tokens, but model.max_context"
                f" leaves room for {room}; raise model.max_context or lower max_turns or "
                "max_new_tokens"
            )
        return ids
