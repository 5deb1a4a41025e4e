"""The managed vLLM engine: m0 and its adapters on a server that this process runs.

One server a process: stages that name the same base model use it together, each checkpoint's
adapter is loaded when it is first asked for, and training and the process's end stop it.
"""

import atexit
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_core.config.engine import OpenAIConfig, VllmConfig
from sage_core.config.model import ModelConfig
from sage_core.engines import memory
from sage_core.engines.answer_body import Answer
from sage_core.engines.answers import AnswerStore, answers_of
from sage_core.engines.base import Completion, ReplyLimits, Request, open_groups
from sage_core.engines.memory import droppable
from sage_core.engines.parameters import Parameters
from sage_core.engines.plugin_arguments import Asked
from sage_core.engines.steering import Steering
from sage_core.engines.vllm_http import VllmHttpEngine
from sage_core.engines.vllm_server import (
    BASE_NAME,
    LOWEST_RANK,
    VllmServer,
    adapter_rank,
    base_identity,
    find_python,
)
from sage_core.errors import EngineError

if TYPE_CHECKING:
    from openai import OpenAI


class VllmEngine(VllmHttpEngine):
    """m0, or an adapter over it, on a managed server."""

    def __init__(
        self,
        settings: VllmConfig,
        server: VllmServer,
        adapter: Path | None,
        answers: AnswerStore | None = None,
    ) -> None:
        served = OpenAIConfig(
            server="vllm",
            base_url=server.base_url,
            model=server.load(adapter) if adapter else BASE_NAME,
            max_concurrency=settings.max_concurrency,
            timeout_s=settings.timeout_s,
            max_retries=settings.max_retries,
        )
        super().__init__(served, answers, server.tokenizer.eos_token_id)
        self.name = f"vllm:{adapter.name if adapter else server.base.name}"
        self.kept_as = base_identity(server.base)  # the port is another one each time
        self.capabilities = replace(
            self.capabilities,
            penalty_outside_states=True,
            boosts=True,
            forces=True,
            forces_need_grammar=False,
        )
        self._server = server

    @property
    def _key_of_server(self) -> str:
        return self._server.key

    @cached_property
    def _client(self) -> "OpenAI":
        from openai import DefaultHttpxClient, OpenAI

        return OpenAI(
            api_key=self._server.key,
            base_url=self.config.base_url,
            timeout=self.config.timeout_s,
            max_retries=self.config.max_retries,
            http_client=DefaultHttpxClient(trust_env=False),  # no proxy is before the loopback
        )

    def _ask(self, of: str, call: Callable[[], Any]) -> Any:
        try:
            return super()._ask(of, call)
        except EngineError as error:
            if self._server.alive():
                raise
            raise self._server.failure(f"died on '{of}'; start again") from error

    # Prompts are sent as tokens of ours: nothing that is said is read as a special token, the
    # context's limit is known before the server is asked, and a forced start is a part of the
    # prompt.

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        for steering in {request.steering for request in requests if request.steering}:
            self._server.vocabulary.check(steering)
        return super().generate(requests)

    def _complete(
        self, request: Request, arguments: dict[str, Any], n: int, seed: int
    ) -> tuple[Answer, int]:
        _, left_out = self._server.prompts.fit(request)
        return self._draw(request.request_id, arguments, n, seed), left_out

    def _settle(self, request: Request, *, scored: bool) -> None:
        pass  # it is known what this server takes

    def _resource(self, client: "OpenAI") -> Any:
        return client.completions

    def _limited(self, completion: Completion, request: Request) -> Completion:
        """Cut where the engine in this process would stop drawing."""
        if not request.prefix:
            completion = replace(
                completion, text=completion.text.removeprefix(self._server.prompts.lead)
            )
        if not request.opens_with_states:
            return completion
        limits, texts = ReplyLimits(request), self._server.vocabulary.texts
        ids = completion.token_ids
        if completion.finish_reason == "stop" and ids and not texts[ids[-1]]:
            ids = ids[:-1]  # the token that ends the reply
        for number, token in enumerate(ids, start=1):
            limits.feed(texts[token])
            if limits.reached:
                text = self._server.tokenizer.decode(ids[:number], skip_special_tokens=True)
                return replace(completion, text=text, finish_reason="length",
                               completion_tokens=number, token_ids=ids[:number])  # fmt: skip
        return completion

    def _rules(self, request: Request) -> str:
        assert request.constraint is not None
        if request.prefix:
            return request.constraint.text
        return self._server.prompts.led(request.constraint).text

    def _arguments(self, request: Request, ways: Parameters) -> dict[str, Any]:
        prompt, _ = self._server.prompts.fit(request)
        return {
            "model": self.config.model,
            "prompt": prompt,
            "temperature": request.sampling.temperature,
            "max_tokens": request.sampling.budget(request.opens_with_states),
            "extra_body": self._vllm_sampling(request),
        }

    def _vllm_sampling(self, request: Request) -> dict[str, Any]:
        extra = super()._vllm_sampling(request)
        sampling = request.sampling
        exempt = request.opens_with_states and not sampling.penalise_states
        asked = Asked(
            sampling.repetition_penalty if exempt else 1.0,
            open_groups(request) if exempt else 0,
            request.steering or Steering(),
            request.constraint is not None,
            request.prefix,
        )
        if exempt:
            extra["repetition_penalty"] = 1.0
        return {**extra, "vllm_xargs": asked.written()} if asked else extra

    def _asked_of(self, request: Request, ways: Parameters) -> dict[str, Any]:
        return {"prompt": self._server.prompts.fit(request)[0]}

    def _prompt_tokens(self, request: Request, asked: dict[str, Any]) -> list[int]:
        tokens: list[int] = asked["prompt"]
        return tokens

    def _tokens_of_option(self, option: str, prefix: str = "") -> list[int]:
        return self._server.prompts.option(prefix, option)

    def _is_banned(self, completion: Completion, request: Request) -> bool:
        return False  # the plug-in keeps them from being drawn


def open_engine(
    settings: VllmConfig, base: Path, model: ModelConfig, adapter: Path | None, home: Path
) -> VllmEngine:
    """See :mod:`sage_core.engines.opening`."""
    return engine(settings, base, adapter, model, home / "logs", answers_of(home))


def engine(
    settings: VllmConfig,
    base: Path,
    adapter: Path | None,
    model: ModelConfig,
    logs: Path,
    answers: AnswerStore | None = None,
) -> VllmEngine:
    """The engine for an adapter folder, or for m0, on this process's server.

    The server is started by the first call, once the models that this process held are dropped
    (:mod:`sage_core.engines.memory`), and again where another base model, other settings or
    a higher LoRA rank are asked for, or where it has died.

    Raises:
        EngineError: no vLLM, the server does not start, or it refuses the adapter.
    """
    global _server
    rank = adapter_rank(adapter) if adapter else 0
    with _server_lock:
        if _server is not None and not _serves(_server, settings, base, model, rank):
            _server.stop()
            _server = None
        if _server is None:
            memory.release()  # of models in this process; vLLM takes nearly all of a GPU
            log = logs / f"vllm-{os.getpid()}-{time.strftime('%Y%m%d-%H%M%S')}.log"
            _server = VllmServer(base, model, settings, log, max(rank, LOWEST_RANK)).__enter__()
        return VllmEngine(settings, _server, adapter, answers)


@droppable
def release() -> None:
    """Stop this process's server."""
    global _server
    with _server_lock:
        if _server is not None:
            _server.stop()
            _server = None


_server: VllmServer | None = None
_server_lock = threading.RLock()
atexit.register(release)


def _serves(
    server: VllmServer, settings: VllmConfig, base: Path, model: ModelConfig, rank: int
) -> bool:
    return (
        server.alive()
        and server.base == base
        and server.model == model
        and server.settings.vllm_arguments == settings.vllm_arguments
        and server.python == find_python(settings)
        and server.max_rank >= rank
    )
