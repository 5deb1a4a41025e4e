"""A vLLM server of the user's: OpenAI's API, and what vLLM has besides."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from json import loads
from typing import Any

from sage_core.config.engine import OpenAIConfig
from sage_core.engines.answers import AnswerStore
from sage_core.engines.base import Request, spaces_in_options
from sage_core.engines.messages import Messages
from sage_core.engines.openai_http import OpenAIEngine, grammar_sent
from sage_core.engines.parameters import Parameters
from sage_core.errors import EngineError

_MAX_LOGPROB_TOKENS = 128  # the server's limit of logprob_token_ids
_LOWEST_LOGPROB = -9999.0  # stands for -inf in its JSON


class VllmHttpEngine(OpenAIEngine):
    """A model on a vLLM server. Options are scored whole; the prompt that they share is in the
    server's prefix cache. ``end`` is the token that ends a reply, where it is known and may be
    another than the server's."""

    capabilities = replace(
        OpenAIEngine.capabilities,
        top_k=True, repetition_penalty=True, grammar=True, prefix=True, forces=True,
    )  # fmt: skip

    def __init__(
        self, config: OpenAIConfig, answers: AnswerStore | None = None, end: int | None = None
    ) -> None:
        super().__init__(config, answers)
        self._end = end
        self._option_tokens: dict[str, list[int]] = {}

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return [len(self._tokens_of_option(text)) for text in texts]

    def _messages(self, request: Request, ways: Parameters) -> Messages:
        messages = super()._messages(request, ways)
        if request.prefix:
            messages.append({"role": "assistant", "content": request.prefix})
        return messages

    def _format(self, request: Request, ways: Parameters) -> dict[str, Any]:
        return {}  # its own name for it, which takes grammars too, is among the extras

    def _extra(self, request: Request) -> dict[str, Any]:
        return {**self._vllm_sampling(request), **self._start(request)}

    def _vllm_sampling(self, request: Request) -> dict[str, Any]:
        """How vLLM is to draw, over what the API knows."""
        # All of them, since a server may take its defaults from the model's own file.
        extra: dict[str, Any] = {
            "top_k": request.sampling.top_k or -1,
            "top_p": 1.0,
            "min_p": 0.0,
            "return_token_ids": True,
            "repetition_penalty": request.sampling.repetition_penalty,
        }
        if self._end is not None:
            extra["stop_token_ids"] = [self._end]
        if (constraint := request.constraint) is not None:
            extra["structured_outputs"] = (
                {"grammar": self._rules(request)}
                if constraint.kind == "grammar"
                else {"json": loads(constraint.text)}
            )
        return extra

    def _rules(self, request: Request) -> str:
        """The grammar that is sent."""
        return grammar_sent(request)

    @staticmethod
    def _start(request: Request) -> dict[str, Any]:
        """How vLLM is told where the reply starts."""
        if not request.prefix:
            return {}
        return {"continue_final_message": True, "add_generation_prompt": False}

    def _choose_one(self, item: tuple[Request, Sequence[str]]) -> list[float]:
        """The log-probability of each option, all its tokens counted.

        After the prompt, and after each start of an option that another token follows, one token
        is drawn and the log-probabilities of the options' next tokens are read off. ``echo`` with
        log-probabilities would do it in one request per option, but reads past the prefix cache.
        """
        request, options = spaces_in_options(*item)
        self._check_options(request, options)
        asked = self._asked_of(request, self._spoken.first)
        key = self._key("choose", options=list(options), model=self.config.model, **asked)
        kept: list[float] | None = self._answers.get(key)
        if kept is not None:
            return kept
        self._settle(replace(request, n=1, constraint=None), scored=False)
        asked = self._asked_of(request, self._spoken.now)
        prompt = self._prompt_tokens(request, asked)
        tokens = [self._tokens_of_option(option, request.prefix) for option in options]
        following: dict[tuple[int, ...], set[int]] = {}
        for option in tokens:
            for position, token in enumerate(option):
                following.setdefault(tuple(option[:position]), set()).add(token)
        scores: dict[tuple[int, ...], float] = {}
        starts = sorted(following, key=len)
        # The prompt alone goes first, so that the others find it in the prefix cache.
        for batch in (starts[:1], *_batches(starts[1:], following)):
            for start, logprobs in self._next_tokens(request, prompt, batch, following).items():
                scores |= {(*start, token): logprobs[token] for token in following[start]}
        totals = [
            sum(scores[tuple(option[: end + 1])] for end in range(len(option))) for option in tokens
        ]
        self._answers.put(key, totals)
        return totals

    def _asked_of(self, request: Request, ways: Parameters) -> dict[str, Any]:
        """The conversation whose options are scored, as it is sent."""
        return {"messages": self._messages(request, ways), **self._start(request)}

    def _prompt_tokens(self, request: Request, asked: dict[str, Any]) -> list[int]:
        return self._tokens(request.request_id, **asked)

    def _next_tokens(
        self,
        request: Request,
        prompt: list[int],
        starts: Sequence[tuple[int, ...]],
        following: dict[tuple[int, ...], set[int]],
    ) -> dict[tuple[int, ...], dict[int, float]]:
        """Log-probabilities of the next token after the prompt and each of ``starts``."""
        wanted = sorted(set().union(*(following[start] for start in starts)))
        if len(wanted) > _MAX_LOGPROB_TOKENS:
            raise EngineError(
                f"the options of '{request.request_id}' start with {len(wanted)} different "
                f"tokens, but a vLLM server scores at most {_MAX_LOGPROB_TOKENS}; ask for fewer "
                "options at once"
            )
        arguments = {
            "model": self.config.model,
            "prompt": [[*prompt, *start] for start in starts],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": 1,
            "extra_body": {"logprob_token_ids": wanted, "return_tokens_as_token_ids": True},
        }
        answer = self._ask(
            request.request_id,
            partial(self._answer_of, self._client.completions, **arguments),
        )
        self._count_answer(answer)
        found = {choice.index: _by_token_id(choice.logprobs) for choice in answer.choices}
        if any(not found.get(index, {}).keys() >= set(wanted) for index in range(len(starts))):
            raise EngineError(
                f"{self._who} did not return the log-probabilities asked for on "
                f"'{request.request_id}' (logprob_token_ids); use vLLM 0.32 or newer"
            )
        return {start: found[index] for index, start in enumerate(starts)}

    def _tokens_of_option(self, option: str, prefix: str = "") -> list[int]:
        """Token ids of a text in the place of the completion; here ``prefix`` is not looked at."""
        if option not in self._option_tokens:
            self._option_tokens[option] = self._tokens(
                option, prompt=option, add_special_tokens=False
            )
        return self._option_tokens[option]

    def _tokens(self, of: str, **text: Any) -> list[int]:
        """Token ids of a conversation or a text, by the vLLM server's own tokenizer."""
        root = str(self._client.base_url).rstrip("/").removesuffix("/v1")
        body = {"model": self.config.model, **text}
        answer = self._ask(
            of, partial(self._client.post, f"{root}/tokenize", body=body, cast_to=object)
        )
        try:
            return [int(token) for token in answer["tokens"]]
        except (KeyError, TypeError, ValueError):
            raise EngineError(
                f"{self._who} has no /tokenize as a vLLM server has; set server = 'openai' for "
                "another kind of server"
            ) from None


def _batches(
    starts: Sequence[tuple[int, ...]], following: dict[tuple[int, ...], set[int]]
) -> Iterator[list[tuple[int, ...]]]:
    """``starts`` in groups that have few enough next tokens for one request."""
    batch: list[tuple[int, ...]] = []
    tokens: set[int] = set()
    for start in starts:
        if batch and len(tokens | following[start]) > _MAX_LOGPROB_TOKENS:
            yield batch
            batch, tokens = [], set()
        batch.append(start)
        tokens |= following[start]
    if batch:
        yield batch


def _by_token_id(logprobs: Any) -> dict[int, float]:
    """The first token's log-probabilities, as vLLM writes them for return_tokens_as_token_ids."""
    top = (logprobs.get("top_logprobs") or [None])[0] if isinstance(logprobs, dict) else None
    return {
        int(token.removeprefix("token_id:")): float("-inf") if value <= _LOWEST_LOGPROB else value
        for token, value in (top or {}).items()
        if token.startswith("token_id:")
    }
