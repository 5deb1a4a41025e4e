"""Any OpenAI-compatible server, by what OpenAI's own API can do.

Requests run side by side, at most ``max_concurrency`` at once on one server; retries with back-off
and time-outs are the ``openai`` client's. After a request that fails for itself (``ItemError``) the
others are asked; when many in a row fail, or one for a reason that holds for all, those under
way are finished. What was answered is kept (:mod:`sage_core.engines.answers`), so that the next
start asks for the rest only.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import cached_property, lru_cache, partial
from json import JSONDecodeError, loads
from typing import TYPE_CHECKING, Any

from sage_core.config.engine import OpenAIConfig
from sage_core.engines.answers import AnswerStore
from sage_core.engines.base import (
    Capabilities,
    Completion,
    Request,
    Usage,
    draw_seed,
    require,
    shortened,
)
from sage_core.engines.failures import finish_of, kind_of
from sage_core.engines.grammar import led
from sage_core.engines.special_tokens import spaced
from sage_core.engines.steering import Steering
from sage_core.errors import ConfigError, ContextError, EngineError, ItemError
from sage_core.keys import holds_credentials, read_key, redact
from sage_core.sac import parse
from sage_core.states import NAMED
from sage_core.storage import digest

if TYPE_CHECKING:
    from openai import OpenAI

_MAX_TOP_LOGPROBS = 20  # the API's limit
_SEEDS = 2**31
_DROPPED = ("abort", "error")  # how vLLM says that it gave a reply up
_PASSING = (408, 409, 429)  # what the client tries again, besides 5xx
_ADDRESS, _HEADERS = "OPENAI_BASE_URL", "OPENAI_CUSTOM_HEADERS"  # which the client reads itself
_STREAK = 20  # failures in a row from which no further request is sent
_SHORTEST_SECRET = 8  # characters; shorter values of headers are words
_IN_HEADERS = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", _HEADERS)
_FIXES = {
    400: "check the request against what the server can do",
    401: "check the key (api_key_env)",
    404: "check 'model' and 'base_url'",
    429: "lower max_concurrency, or wait",
}


class OpenAIEngine:
    """A model behind the chat-completions API.

    Without ``answers``, finished requests are kept in memory until the call that made them
    succeeds. ``kept_as`` is what serves the model, as far as kept answers depend on it.
    """

    capabilities = Capabilities(
        json_schema=True, scoring=True, bans=True, forces_need_grammar=True, independent=True
    )

    def __init__(self, config: OpenAIConfig, answers: AnswerStore | None = None) -> None:
        self.config = config
        self.name = f"openai:{config.model}"
        self.kept_as = config.base_url or "OpenAI"
        self.usage = Usage()
        self._answers = answers or AnswerStore()
        self._lock = threading.Lock()

    @property
    def _key_of_server(self) -> str:
        """ "" = none."""
        return read_key(self.config.api_key_env)

    @cached_property
    def _client(self) -> "OpenAI":
        from openai import OpenAI

        key = self._key_of_server
        if not key and not self.config.base_url:
            raise EngineError(
                f"the engine '{self.name}' needs a key: set the environment variable "
                f"{self.config.api_key_env}, or point base_url to a server that needs none"
            )
        if not self.config.base_url and holds_credentials(os.environ.get(_ADDRESS, "")):
            raise ConfigError(
                f"the environment variable {_ADDRESS} must not hold a user name or password "
                "(user:password@host); the key goes into the environment variable "
                f"{self.config.api_key_env}"
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
            ConfigError: the key cannot be sent, or ``OPENAI_BASE_URL`` holds credentials.
        """
        _ = self._client

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        for request in requests:
            require(self, request)
        return self._side_by_side(self._generate_one, requests)

    def choose(
        self, requests: Sequence[Request], options: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """As the protocol says.

        The API shows the 20 most likely first tokens and nothing else: an option of one character
        that is not among them gets -inf.

        Raises:
            EngineError: an option is empty, or has several characters and is not among those 20
                tokens.
        """
        return self._side_by_side(self._choose_one, list(zip(requests, options, strict=True)))

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        raise EngineError(
            f"{self._who} does not show how it cuts a text into tokens; set server = 'vllm' if "
            "it is one, or use an engine of kind 'transformers' or 'vllm' for this role"
        )

    def _side_by_side(self, function: Any, items: Sequence[Any]) -> list[Any]:
        self.check()  # here, so that a missing key is not reported once a thread
        began = time.monotonic()
        results: dict[int, Any] = {}
        failed: dict[int, ItemError] = {}
        failures: list[Exception] = []
        streak: list[ItemError] = []

        def run(index: int) -> None:
            if failures:  # nothing new is begun
                return
            try:
                results[index] = function(items[index])
                streak.clear()
            except ItemError as error:
                failed[index] = error
                streak.append(error)
                if len(streak) > max(_STREAK, self.config.max_concurrency):
                    failures.append(EngineError(f"{len(streak)} requests in a row failed: {error}"))
            except Exception as error:
                failures.append(error)

        with ThreadPoolExecutor(self.config.max_concurrency) as pool:
            list(pool.map(run, range(len(items))))
        self._count(Usage(seconds=time.monotonic() - began))
        if failures or failed:
            failures = failures or [failed[min(failed)]]
            if not isinstance(failures[0], EngineError):
                raise failures[0]
            error = type(failures[0])(
                f"{failures[0]}; {len(results)} of these {len(items)} requests were answered, and "
                "are kept: start again, and only the others are asked"
            )
            if isinstance(error, ItemError):
                error.failed, error.answers = failed, results
            raise error from failures[0]
        if not self._answers.lasting:
            self._answers.forget()
        return [results[index] for index in range(len(items))]

    # --- generate ---------------------------------------------------------------------------------

    def _generate_one(self, request: Request) -> list[Completion]:
        arguments = self._arguments(request)
        # Bans may not be among what is sent, and an answer without them is another one.
        bans = (request.steering or Steering()).written()["ban"]
        seed = draw_seed(request, 0)
        key = self._key("generate", n=request.n, seed=seed, bans=bans, **arguments)
        kept = self._answers.get(key)
        if kept is not None:
            found = [_completion(completion) for completion in kept]
            if _is_answered(request, found):
                return found
        completions: list[Completion] = []
        drawn = fruitless = 0
        while len(completions) < request.n:
            missing = request.n - len(completions)
            seed = draw_seed(request, drawn) % _SEEDS
            answer, left_out = self._complete(request, arguments, n=missing, seed=seed)
            got = list(self._completions(answer, request, left_out))[:missing]
            allowed = [each for each in got if not self._is_banned(each, request)]
            completions += allowed
            drawn += missing
            fruitless = 0 if allowed else fruitless + 1
            if fruitless > self.config.max_retries:
                raise self._too_few(request, completions, got, answer)
        if _is_answered(request, completions):
            self._answers.put(key, [asdict(completion) for completion in completions])
        return completions

    def _complete(
        self, request: Request, arguments: dict[str, Any], **more: Any
    ) -> tuple[Any, int]:
        """The server's answer, and how many messages its context had no room for."""
        shorter: Request | None = request
        while shorter is not None:
            left_out = len(request.messages) - len(shorter.messages)
            try:
                return self._ask(
                    request.request_id, partial(self._create, **arguments, **more)
                ), left_out
            except ContextError:
                shorter = shortened(shorter)
                if shorter is None:
                    raise
                arguments = self._arguments(shorter)
        raise AssertionError

    def _too_few(
        self, request: Request, completions: list[Completion], got: list[Completion], answer: Any
    ) -> EngineError:
        """The error where asking again brings nothing."""
        again = f"and no more when asked again {self.config.max_retries} times"
        if got:
            assert request.steering is not None
            bans = ", ".join(request.steering.written()["ban"])
            return EngineError(
                f"{self._who} wrote banned values ({bans}) in all but {len(completions)} of "
                f"{request.n} replies to '{request.request_id}', {again}; this server cannot be "
                "kept from drawing them: use an engine of kind 'transformers' or 'vllm'"
            )
        last = _short(self._redact(str(answer)))  # in this order: a key that is cut is not found
        return ItemError(
            f"{self._who} returned {len(completions)} of {request.n} choices for "
            f"'{request.request_id}' {again} (the last answer: {last}); check "
            "that base_url is an OpenAI-compatible server's, or ask for fewer candidates"
        )

    def _is_banned(self, completion: Completion, request: Request) -> bool:
        """Whether the reply is to be drawn again: what is left has the model's own distribution
        without the banned values."""
        steering = request.steering or Steering()
        chain = parse(request.prefix + completion.text)
        speakers = {"user": chain.user, "agent": chain.agent}
        for ban in steering.bans:
            values = NAMED[ban.field].of(speakers[ban.speaker])
            if ban.keyword.casefold() in [value.casefold() for value in values]:
                return True
        return False

    def _completions(self, answer: Any, request: Request, left_out: int) -> Iterator[Completion]:
        """The whole choices of an answer; none for what is no completion."""
        choices = getattr(answer, "choices", None) or []
        self._count_answer(answer)
        usage = getattr(answer, "usage", None)
        shared = (usage.completion_tokens if usage else 0) // max(len(choices), 1)
        for choice in choices:
            text = self._text(choice)
            if text is None or choice.finish_reason in _DROPPED:
                continue
            ids = (choice.model_extra or {}).get("token_ids")
            yield self._limited(
                Completion(
                    text,
                    finish_of(choice),
                    shared if ids is None else len(ids),
                    left_out,
                    tuple(ids or ()),
                ),
                request,
            )

    def _limited(self, completion: Completion, request: Request) -> Completion:
        """The completion without what the server repeats, and within the limits of states and
        utterance. A server knows one limit, the sum of both, and here the tokens are not known: an
        utterance may be longer than its own."""
        return completion

    @property
    def _create(self) -> Callable[..., Any]:
        """The call that generates."""
        return self._client.chat.completions.create

    def _text(self, choice: Any) -> str | None:
        """The text of a choice; None for what is none."""
        if choice.message is None:
            return None
        return choice.message.content or getattr(choice.message, "refusal", None) or ""

    def _arguments(self, request: Request) -> dict[str, Any]:
        """What is sent for ``request``, but for the number of choices and the seed."""
        constraint = request.constraint
        arguments: dict[str, Any] = {
            "model": self.config.model,
            "messages": self._messages(request),
            "temperature": request.sampling.temperature,
            "max_completion_tokens": request.sampling.budget(request.opens_with_states),
            "extra_body": {},
        }
        if constraint is not None and constraint.kind == "json_schema":
            arguments["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": "reply", "strict": True, "schema": loads(constraint.text)},
            }
        return arguments

    def _messages(self, request: Request) -> list[dict[str, str]]:
        """The conversation. OpenAI keeps its special tokens apart from what is said; other servers
        may read one wherever it is."""
        plain = spaced if self.config.base_url else str
        return [{"role": m.role, "content": plain(m.content)} for m in request.messages]

    # --- choose -----------------------------------------------------------------------------------

    def _choose_one(self, item: tuple[Request, Sequence[str]]) -> list[float]:
        request, options = item
        self._check_options(request, options)
        arguments = {
            **self._arguments(request),
            "max_completion_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": _MAX_TOP_LOGPROBS,
        }
        key = self._key("choose", options=list(options), **arguments)
        kept: list[float | None] | None = self._answers.get(key)
        if kept is None:
            answer = self._ask(
                request.request_id, partial(self._client.chat.completions.create, **arguments)
            )
            self._count_answer(answer)
            kept = self._first_token(answer, request, options)
            if any(score is not None for score in kept):
                self._answers.put(key, kept)
        return [float("-inf") if score is None else score for score in kept]

    def _first_token(
        self, answer: Any, request: Request, options: Sequence[str]
    ) -> list[float | None]:
        choices = getattr(answer, "choices", None)
        logprobs = choices[0].logprobs if choices else None
        if logprobs is None or not logprobs.content:
            raise EngineError(
                f"{self._who} returned no log-probabilities; use a model that returns "
                "top_logprobs, or another engine for this role"
            )
        exact: dict[str, float] = {}
        bare: dict[str, float] = {}
        for entry in logprobs.content[0].top_logprobs:  # the most likely first
            exact.setdefault(entry.token, entry.logprob)
            bare.setdefault(entry.token.strip(), entry.logprob)
        for option in options:
            if option not in exact and option.strip() not in bare and len(option.strip()) > 1:
                raise EngineError(
                    f"{self._who} cannot score '{option}' for '{request.request_id}': it is no "
                    f"single token, or not among the {_MAX_TOP_LOGPROBS} most likely ones, which "
                    "are all that this API shows; use one letter for each option, or an engine of "
                    "kind 'transformers' or 'vllm' for this role"
                )
        return [exact.get(option, bare.get(option.strip())) for option in options]

    def _check_options(self, request: Request, options: Sequence[str]) -> None:
        if not all(options):
            raise EngineError(f"an option of '{request.request_id}' is empty; each needs some text")

    # --- asking and counting ----------------------------------------------------------------------

    @property
    def _who(self) -> str:
        return f"the engine '{self.name}' at {self.config.base_url or 'OpenAI'}"

    def _key(self, what: str, **sent: Any) -> str:
        return digest({"server": self.kept_as, "what": what, "sent": sent})

    def _ask(self, of: str, call: Callable[[], Any]) -> Any:
        """One call of the server, within its limits; every failure is an EngineError that names
        ``of``, the request's id.

        Without a cause: Prefect logs it, and it may hold the request's headers.
        """
        import openai

        with _slots(self.kept_as, self.config.max_concurrency):
            self._check_spending()
            failed = f"{self._who} failed on '{of}'"
            tried = f"{failed} after {self.config.max_retries} retries"
            try:
                for _ in range(self.config.max_retries):
                    # Without a length a body that was cut is no error of the connection's.
                    with suppress(JSONDecodeError):
                        return call()
                return call()
            except JSONDecodeError as error:
                raise ItemError(
                    f"{tried}: the answer is not JSON ({error}); check that base_url is an "
                    "OpenAI-compatible server's"
                ) from None
            except openai.APIStatusError as error:
                fix = _FIXES.get(error.status_code, "check the server's log")
                what = (
                    tried if error.status_code in _PASSING or error.status_code >= 500 else failed
                )
                kind = kind_of(error.status_code, f"{error.message} {error.body}")
                said = self._redact(error.message)
                raise kind(f"{what}: {said}; {fix}, then start again") from None
            except openai.APITimeoutError:
                raise ItemError(
                    f"{tried}: no answer within {self.config.timeout_s:g} s; raise timeout_s or "
                    "lower max_concurrency, then start again"
                ) from None
            except openai.OpenAIError as error:
                if _is_header(error):
                    raise self._bad_header(failed) from None
                raise EngineError(
                    f"{tried}: {self._redact(_reason(error))}; check that the server runs and that "
                    "base_url is its address, then start again"
                ) from None
            except UnicodeEncodeError as error:
                if error.encoding == "utf-8":  # that of the body
                    raise
                raise self._bad_header(failed) from None

    def _bad_header(self, failed: str) -> EngineError:
        return EngineError(
            f"{failed}: a header cannot be sent; check the environment variables "
            f"{', '.join(_IN_HEADERS)} for line breaks and characters that are not ASCII"
        )

    def _redact(self, text: str) -> str:
        """What a server or the client said, without what must not be stored."""
        headers = os.environ.get(_HEADERS, "").split("\n")
        values = [header.partition(":")[2].strip() for header in headers]
        secrets = [value for value in values if len(value) >= _SHORTEST_SECRET]
        return redact(text, self._key_of_server, *secrets)

    def _count_answer(self, answer: Any) -> None:
        usage = getattr(answer, "usage", None)
        if usage is None:
            if self.config.max_spend_usd:
                raise EngineError(
                    f"{self._who} does not say how many tokens it used, so max_spend_usd cannot "
                    "be kept; set it to 0 to go on without a limit"
                )
            self._count(Usage(requests=1))
            return
        used = Usage(1, usage.prompt_tokens or 0, usage.completion_tokens or 0)
        self._count(used)
        self._answers.add_usage(self.kept_as, self.config.model, used)

    def _count(self, used: Usage) -> None:
        with self._lock:
            self.usage += used

    def _check_spending(self) -> None:
        limit = self.config.max_spend_usd
        if not limit:
            return
        used = self._answers.usage(self.kept_as, self.config.model)
        spent = (
            used.prompt_tokens * self.config.usd_per_million_prompt_tokens
            + used.completion_tokens * self.config.usd_per_million_completion_tokens
        ) / 1e6
        if spent >= limit:
            raise EngineError(
                f"{self._who} has used {spent:.4f} USD of max_spend_usd = {limit:g} "
                f"({used.prompt_tokens} prompt and {used.completion_tokens} completion tokens in "
                f"{used.requests} answers); raise max_spend_usd to go on"
            )


def grammar_sent(request: Request) -> str:
    """The request's rules, for a server whose tokenizer is not known: it may join a space to the
    first word of a reply."""
    assert request.constraint is not None
    rules = request.constraint.text
    return rules if request.prefix else led(rules, '" "?')


@lru_cache
def _slots(server: str, limit: int) -> threading.BoundedSemaphore:
    """The requests that may be under way on ``server``, for all engines of this process."""
    return threading.BoundedSemaphore(limit)


def _is_header(error: Exception) -> bool:
    """Whether the client could not send a header, which its text then repeats."""
    return type(error.__cause__).__name__ == "LocalProtocolError"  # httpx's, or httpx2's


def _is_answered(request: Request, completions: Sequence[Completion]) -> bool:
    """Whether the completions are what was asked for, so that they may be kept."""
    return request.is_answer is None or all(map(request.is_answer, completions))


def _completion(kept: dict[str, Any]) -> Completion:
    """A completion as it was kept, in JSON."""
    return Completion(**{**kept, "token_ids": tuple(kept.get("token_ids", ()))})


def _reason(error: Exception) -> str:
    return f"{error} ({error.__cause__})" if error.__cause__ else str(error)


def _short(answer: Any, limit: int = 200) -> str:
    text = " ".join(str(answer).split())
    return text if len(text) <= limit else f"{text[:limit]}..."
