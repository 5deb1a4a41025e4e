"""Any OpenAI-compatible server: OpenAI itself, a vLLM server, llama.cpp's.

Requests run side by side, at most ``max_concurrency`` at once; retries with back-off and time-outs
are the ``openai`` client's.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from json import loads
from typing import TYPE_CHECKING, Any

from sage_core.config import EngineConfig
from sage_core.engines.base import Capabilities, Completion, Request, draw_seed, require
from sage_core.errors import EngineError

if TYPE_CHECKING:
    from openai import OpenAI

_MAX_TOP_LOGPROBS = 20  # the API's limit


class OpenAIEngine:
    """A model behind the chat-completions API."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.name = f"openai:{config.model}"
        vllm = config.server == "vllm"
        self.capabilities = Capabilities(
            top_k=vllm,
            repetition_penalty=vllm,
            penalty_outside_states=False,
            grammar=vllm,
            json_schema=True,
            prefix=False,
            scoring=True,
        )

    @cached_property
    def _client(self) -> "OpenAI":
        from openai import OpenAI

        key = os.environ.get(self.config.api_key_env)
        if not key and not self.config.base_url:
            raise EngineError(
                f"the engine '{self.name}' needs a key: set the environment variable "
                f"{self.config.api_key_env}, or point base_url to a server that needs none"
            )
        return OpenAI(
            api_key=key or "none",
            base_url=self.config.base_url or None,
            timeout=self.config.timeout_s,
            max_retries=self.config.max_retries,
        )

    def check(self) -> None:
        """Check that the client can be made.

        Raises:
            EngineError: OpenAI itself is to be asked, and there is no key.
        """
        _ = self._client

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        for request in requests:
            require(self, request)
        return self._side_by_side(self._generate_one, requests)

    def choose(
        self, requests: Sequence[Request], options: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """As the protocol says; options must be single tokens, since the API returns the 20 most
        likely first tokens and nothing else."""
        return self._side_by_side(self._choose_one, list(zip(requests, options, strict=True)))

    def _side_by_side(self, function: Any, items: Sequence[Any]) -> list[Any]:
        self.check()  # here, so that a missing key is not reported once a thread
        with ThreadPoolExecutor(self.config.max_concurrency) as pool:
            return list(pool.map(function, items))

    def _generate_one(self, request: Request) -> list[Completion]:
        sampling = request.sampling
        response = self._call(
            request,
            n=request.n,
            temperature=sampling.temperature,
            max_completion_tokens=sampling.max_new_tokens,
            seed=draw_seed(request, 0) % 2**31,
        )
        used = response.usage.completion_tokens if response.usage else 0
        return [
            Completion(
                choice.message.content or "",
                "length" if choice.finish_reason == "length" else "stop",
                used // max(len(response.choices), 1),
            )
            for choice in response.choices
        ]

    def _choose_one(self, item: tuple[Request, Sequence[str]]) -> list[float]:
        request, options = item
        response = self._call(
            request,
            max_completion_tokens=1,
            temperature=0,
            logprobs=True,
            top_logprobs=_MAX_TOP_LOGPROBS,
        )
        logprobs = response.choices[0].logprobs if response.choices else None
        if logprobs is None or not logprobs.content:
            raise EngineError(
                f"the server of '{self.name}' returned no log-probabilities; use a model that "
                "returns top_logprobs, or another engine for this role"
            )
        first = {entry.token.strip(): entry.logprob for entry in logprobs.content[0].top_logprobs}
        return [first.get(option.strip(), float("-inf")) for option in options]

    def _call(self, request: Request, **arguments: Any) -> Any:
        import openai

        extra: dict[str, Any] = {}
        if self.config.server == "vllm":
            extra["top_k"] = request.sampling.top_k or -1
            extra["repetition_penalty"] = request.sampling.repetition_penalty
        if request.constraint is not None:
            if request.constraint.kind == "grammar":
                extra["structured_outputs"] = {"grammar": request.constraint.text}
            else:
                arguments["response_format"] = {
                    "type": "json_schema",
                    "json_schema": {
                        "name": "reply",
                        "strict": True,
                        "schema": loads(request.constraint.text),
                    },
                }
        messages: Any = [{"role": m.role, "content": m.content} for m in request.messages]
        try:
            return self._client.chat.completions.create(
                model=self.config.model, messages=messages, extra_body=extra, **arguments
            )
        except openai.OpenAIError as error:
            where = self.config.base_url or "OpenAI"
            raise EngineError(
                f"the engine '{self.name}' at {where} failed on '{request.request_id}' after "
                f"{self.config.max_retries} retries: {error}; check that the server runs and "
                "knows the model, then start again: finished work is kept"
            ) from error
