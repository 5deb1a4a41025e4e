"""Any OpenAI-compatible server, by what OpenAI's own API can do.

Requests run side by side, at most ``max_concurrency`` at once on one server
(:mod:`sage_core.engines.asking`). After a request that fails for itself (``ItemError``) the others
are asked; when many in a row fail, or one for a reason that holds for all, those under way are
finished. What was answered is kept (:mod:`sage_core.engines.answers`), so that the next start asks
for the rest only. What parameters the server takes is found out before
(:mod:`sage_core.engines.spoken`).
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from json import dumps
from typing import Any

from sage_core.engines.answer_body import Answer
from sage_core.engines.base import (
    Capabilities,
    Completion,
    Request,
    Usage,
    draw_seed,
    require,
    shortened,
)
from sage_core.engines.chat_client import SEEDS, ChatClient, no_scores
from sage_core.engines.failures import finish_of
from sage_core.engines.first_token import option_scores
from sage_core.engines.grammar import led
from sage_core.engines.refusals import shortened as in_short
from sage_core.engines.steering import Steering
from sage_core.errors import ContextError, EngineError, ItemError
from sage_core.sac import parse
from sage_core.states import NAMED

_STREAK = 20  # failures in a row from which no further request is sent
_DROPPED = ("abort", "error")  # how vLLM says that it gave a reply up


class OpenAIEngine(ChatClient):
    """A model behind the chat-completions API.

    Without ``answers``, finished requests are kept in memory until the call that made them
    succeeds.
    """

    capabilities = Capabilities(
        json_schema=True, scoring=True, bans=True, forces_need_grammar=True, independent=True
    )

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        for request in requests:
            require(self, request)
        return self._side_by_side(self._generate_one, requests)

    def choose(
        self, requests: Sequence[Request], options: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """As the protocol says.

        The API shows the most likely first tokens, 20 or fewer, and nothing else: an option of one
        character that is not among them gets -inf.

        Raises:
            EngineError: an option is empty, or has several characters and is not among those
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
                self._check_counted()
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
        self._note_changes()
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
        first = self._spoken.first
        arguments = self._arguments(request, first)
        # Bans may not be among what is sent, and an answer without them is another one.
        bans = (request.steering or Steering()).written()["ban"]
        seed = draw_seed(request, 0)
        key = self._key("generate", n=request.n, seed=seed, bans=bans, **arguments)
        kept = self._answers.get(key)
        if kept is not None:
            found = [_completion(completion) for completion in kept]
            if _is_answered(request, found):
                return found
        self._settle(request, scored=False)
        if self._spoken.now != first:
            arguments = self._arguments(request, self._spoken.now)
        completions: list[Completion] = []
        drawn = fruitless = 0
        while len(completions) < request.n:
            missing = request.n - len(completions)
            seed = draw_seed(request, drawn) % SEEDS
            answer, left_out = self._complete(request, arguments, missing, seed)
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
        self, request: Request, arguments: dict[str, Any], n: int, seed: int
    ) -> tuple[Answer, int]:
        """The server's answer, and how many messages its context had no room for."""
        shorter: Request | None = request
        while shorter is not None:
            left_out = len(request.messages) - len(shorter.messages)
            try:
                return self._draw(request.request_id, arguments, n, seed), left_out
            except ContextError:
                shorter = shortened(shorter)
                if shorter is None:
                    raise
                arguments = self._arguments(shorter, self._spoken.now)
        raise AssertionError

    def _too_few(
        self,
        request: Request,
        completions: list[Completion],
        got: list[Completion],
        answer: Answer,
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
        last = in_short(self._redact(dumps(answer.body)))  # whole first: a key may be cut
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

    def _completions(self, answer: Answer, request: Request, left_out: int) -> Iterator[Completion]:
        """The whole choices of an answer; none for what is no completion."""
        shared = (answer.completion_tokens or 0) // max(len(answer.choices), 1)
        for choice in answer.choices:
            if choice.text is None or choice.finish_reason in _DROPPED:
                continue
            ids = choice.token_ids
            yield self._limited(
                Completion(
                    choice.text or choice.refusal,
                    finish_of(choice),
                    shared if ids is None else len(ids),
                    left_out,
                    ids or (),
                ),
                request,
            )

    def _limited(self, completion: Completion, request: Request) -> Completion:
        """The completion without what the server repeats, and within the limits of states and
        utterance. A server knows one limit, the sum of both, and here the tokens are not known: an
        utterance may be longer than its own."""
        return completion

    # --- choose -----------------------------------------------------------------------------------

    def _choose_one(self, item: tuple[Request, Sequence[str]]) -> list[float]:
        request, options = item
        self._check_options(request, options)
        asked = self._scored(request, self._spoken.first)
        key = self._key("first token", options=list(options), **asked)
        kept: list[float | None] | None = self._answers.get(key)
        if kept is None:
            self._settle(request, scored=True)
            asked = self._scored(request, self._spoken.now)
            answer = self._asked(request.request_id, asked)
            kept = self._first_token(answer, request, options)
            if any(score is not None for score in kept):
                self._answers.put(key, kept)
        return [float("-inf") if score is None else score for score in kept]

    def _first_token(
        self, answer: Answer, request: Request, options: Sequence[str]
    ) -> list[float | None]:
        tokens = answer.choices[0].first_tokens if answer.choices else None
        if not tokens:
            raise EngineError(no_scores(self._who))
        scores = option_scores(tokens, options)
        for option, score in zip(options, scores, strict=True):
            if score is None and len(option.strip()) > 1:
                raise EngineError(
                    f"{self._who} cannot score '{option}' for '{request.request_id}': it is not a "
                    f"single token, or not among the {self._spoken.now.top_logprobs} most likely "
                    "ones, which are all that this API shows; use one letter for each option, or "
                    "an engine of kind 'transformers' or 'vllm' for this role"
                )
        return scores

    def _check_options(self, request: Request, options: Sequence[str]) -> None:
        if not all(options):
            raise EngineError(f"an option of '{request.request_id}' is empty; each needs some text")


def grammar_sent(request: Request) -> str:
    """The request's rules, for a server whose tokenizer is not known: it may join a space to the
    first word of a reply."""
    assert request.constraint is not None
    rules = request.constraint.text
    return rules if request.prefix else led(rules, '" "?')


def _is_answered(request: Request, completions: Sequence[Completion]) -> bool:
    """Whether the completions are what was asked for, so that they may be kept."""
    return request.is_answer is None or all(map(request.is_answer, completions))


def _completion(kept: dict[str, Any]) -> Completion:
    """A completion as it was kept, in JSON."""
    return Completion(**{**kept, "token_ids": tuple(kept.get("token_ids", ()))})
