"""llama.cpp's server: OpenAI's API, and what llama.cpp has besides."""

from dataclasses import replace
from typing import Any

from sage_core.engines.base import Completion, Request
from sage_core.engines.messages import Messages
from sage_core.engines.openai_http import OpenAIEngine, grammar_sent
from sage_core.engines.parameters import Parameters

_PENALISED = 2**15  # tokens that it looks back at: it takes no 'all', and sets room aside


class LlamaCppEngine(OpenAIEngine):
    """A model on llama.cpp's server."""

    capabilities = replace(
        OpenAIEngine.capabilities,
        top_k=True, repetition_penalty=True, grammar=True, prefix=True, forces=True,
    )  # fmt: skip

    def _messages(self, request: Request, ways: Parameters) -> Messages:
        messages = super()._messages(request, ways)
        if request.prefix:  # it goes on from a last message of the assistant's
            messages.append({"role": "assistant", "content": request.prefix})
        return messages

    def _extra(self, request: Request) -> dict[str, Any]:
        return _sampling(request)

    def _limited(self, completion: Completion, request: Request) -> Completion:
        return replace(completion, text=completion.text.removeprefix(request.prefix))


def _sampling(request: Request) -> dict[str, Any]:
    """How llama.cpp is to draw, over what the API knows; its own defaults cut the tail."""
    extra: dict[str, Any] = {
        "top_k": request.sampling.top_k,
        "top_p": 1.0,
        "min_p": 0.0,
        "repeat_penalty": request.sampling.repetition_penalty,
        "repeat_last_n": _PENALISED,
    }
    if request.constraint is not None and request.constraint.kind == "grammar":
        extra["grammar"] = grammar_sent(request).replace(r"\0", r"\x00")
    return extra
