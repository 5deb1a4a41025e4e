"""One model on a server: its client, the limits on requests and spending, and what goes wrong.

Requests are made by the ``openai`` client, with its retries, back-off and time-outs. Bodies are
read here (:mod:`sage_core.engines.answer_body`), so that nothing a server says reaches other code
before keys are taken out of it.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property, lru_cache
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any

from sage_core import addresses
from sage_core.config.servers import ADDRESS, OpenAIConfig
from sage_core.engines.answer_body import Answer, as_json, decoded, read_answer
from sage_core.engines.answers import AnswerStore
from sage_core.engines.base import Address, Usage
from sage_core.engines.failures import kind_of
from sage_core.engines.refusals import (
    about_request,
    is_passing,
    shortened,
    shown,
)
from sage_core.errors import ConfigError, EngineError, ItemError
from sage_core.keys import holds_credentials, read_key, redact, redacted

if TYPE_CHECKING:
    from openai import OpenAI

_HEADERS = "OPENAI_CUSTOM_HEADERS"  # which the client reads itself
_SHORTEST_SECRET = 8  # characters; shorter ones are words, which any answer may hold
_IN_HEADERS = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", _HEADERS)
_FIXES = {
    400: "check the request against what the server can do, and 'parameters' of the engine",
    401: "check the key (api_key_env)",
    404: "check 'model' and 'base_url'",
    422: "check the request against what the server can do, and 'parameters' of the engine",
    429: "lower max_concurrency, or wait",
}


class ServerClient:
    """Asks one model on a server. ``kept_as`` is what serves the model, as far as kept answers
    depend on it."""

    def __init__(self, config: OpenAIConfig, answers: AnswerStore | None = None) -> None:
        self.config = config
        self.name = f"openai:{config.model}"
        self.usage = Usage()
        address = addresses.identity(config.base_url or addresses.OPENAI)
        self.kept_as = "OpenAI" if address == addresses.OPENAI else address
        self._answers = answers or AnswerStore()
        self._lock = threading.Lock()
        self._uncounted = False

    @property
    def _who(self) -> str:
        return f"the engine '{self.name}' at {self.config.where}"

    @property
    def _key_of_server(self) -> str:
        """ "" = none."""
        return read_key(self.config.api_key_env)

    def address(self) -> Address:
        """See :class:`sage_core.engines.base.IsServed`."""
        return Address(self.config.base_url, self.config.model, self._key_of_server)

    @cached_property
    def _client(self) -> "OpenAI":
        from openai import OpenAI

        key = self._key_of_server
        if not key and not self.config.base_url:
            raise EngineError(
                f"the engine '{self.name}' needs a key: set the environment variable "
                f"{self.config.api_key_env}, or point base_url to a server that needs none"
            )
        if not self.config.base_url and holds_credentials(os.environ.get(ADDRESS, "")):
            raise ConfigError(
                f"the environment variable {ADDRESS} must not hold a user name or password "
                "(user:password@host); the key goes into the environment variable "
                f"{self.config.api_key_env}"
            )
        return OpenAI(
            api_key=key or "none",
            base_url=self.config.base_url or addresses.OPENAI,
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

    def _answer_of(self, resource: Any, **arguments: Any) -> Answer:
        """What a resource of the client (``client.chat.completions``) answers, without keys."""
        raw = resource.with_raw_response.create(**arguments)
        return read_answer(redacted(as_json(raw.content), *self._long_secrets))

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
                said = shortened(self._redact(error.doc))
                raise ItemError(
                    f"{tried}: the answer is not JSON ({error.msg}, character {error.pos}): "
                    f"{said or 'it is empty'}; check that base_url is an OpenAI-compatible server's"
                ) from None
            except openai.APIStatusError as error:
                raise self._refusal(error, failed, tried) from None
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

    def _refusal(self, error: Any, failed: str, tried: str) -> EngineError:
        """The error for a status, with what the server says."""
        status: int = error.status_code
        try:
            body = as_json(error.response.content)
        except JSONDecodeError:
            body = decoded(error.response.content)
        # Whole first: a key that is cut is not found.
        body = redacted(body, *self._secrets)
        about = about_request(body)
        what = tried if is_passing(status) else failed
        said = shown(body) or "it says nothing else"
        fix = _FIXES.get(status, "check the server's log")
        message = f"{what}: Error code: {status} - {said}; {fix}, then start again"
        # What is said of the request decides, and the whole body where a filter speaks.
        raised = kind_of(status, about, str(body))(message)
        raised.status, raised.said = status, about
        return raised

    def _bad_header(self, failed: str) -> EngineError:
        return EngineError(
            f"{failed}: a header cannot be sent; check the environment variables "
            f"{', '.join(_IN_HEADERS)} for line breaks and characters that are not ASCII"
        )

    @property
    def _secrets(self) -> list[str]:
        """What must not be stored."""
        headers = os.environ.get(_HEADERS, "").split("\n")
        values = [header.partition(":")[2].strip() for header in headers]
        return [self._key_of_server, *(v for v in values if len(v) >= _SHORTEST_SECRET)]

    @property
    def _long_secrets(self) -> list[str]:
        """Those that are taken out of answers: a stand-in such as 'EMPTY' may be one's words."""
        return [secret for secret in self._secrets if len(secret) >= _SHORTEST_SECRET]

    def _redact(self, text: str) -> str:
        """What a server or the client said, without what must not be stored."""
        return redact(text, *self._secrets)

    def _count_answer(self, answer: Answer) -> None:
        used = Usage(1, answer.prompt_tokens or 0, answer.completion_tokens or 0)
        self._uncounted |= not answer.is_counted
        self._count(used)
        self._answers.add_usage(self.kept_as, self.config.model, used)

    def _count(self, used: Usage) -> None:
        with self._lock:
            self.usage += used

    def _check_counted(self) -> None:
        """
        Raises:
            EngineError: the limit of spending cannot be kept, since an answer had no counts.
        """
        if self._uncounted and self.config.max_spend_usd:
            raise EngineError(
                f"{self._who} does not say how many tokens it used, so max_spend_usd cannot be "
                "kept; set it to 0 to go on without a limit"
            )

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


@lru_cache
def _slots(server: str, limit: int) -> threading.BoundedSemaphore:
    """The requests that may be under way on ``server``, for all engines of this process."""
    return threading.BoundedSemaphore(limit)


def _is_header(error: Exception) -> bool:
    """Whether the client could not send a header, which its text then repeats."""
    return type(error.__cause__).__name__ == "LocalProtocolError"  # httpx's, or httpx2's


def _reason(error: Exception) -> str:
    return f"{error} ({error.__cause__})" if error.__cause__ else str(error)
