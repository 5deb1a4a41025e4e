"""The Engine protocol: what a stage may ask of a model, and what an engine says it can do.

Every stage speaks to models through :meth:`Engine.generate` and :meth:`Engine.choose` only. A
:class:`Request` asks for one reply in ``n`` variants; all that the draws depend on is in the
request (its id, the candidate's number, the seed), so a result does not depend on what else is
generated beside it, except through the rounding of a batch.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

from sage_core import conversation
from sage_core.config.engine import SamplingConfig
from sage_core.engines.steering import Force, Steering
from sage_core.errors import EngineError
from sage_core.schema import Message


@dataclass(frozen=True)
class Constraint:
    """What the reply must match: an EBNF grammar (GBNF notation, root rule ``root``), or a JSON
    schema; ``forces`` are the forced state values that the grammar already holds."""

    kind: Literal["grammar", "json_schema"]
    text: str
    forces: tuple[Force, ...] = ()


@dataclass(frozen=True)
class Request:
    """One reply asked for.

    Attributes:
        request_id: unique within a run; draws are seeded from it.
        messages: the conversation so far; the reply is the next assistant message.
        sampling: how tokens are drawn.
        n: number of candidates.
        seed: the run's seed.
        constraint: what the reply must match, or None.
        opens_with_states: the reply is State-Action Chain text: ``sampling.penalise_states``
            applies to its state groups, and they have a token limit of their own.
        prefix: text that the reply already starts with; not part of the completion.
        steering: what is asked of the reply's states; its forces must be in the constraint, if
            there is one.
        is_answer: whether a completion answers the request; None: each does. One that does not is
            returned, but an engine that keeps answers does not keep it, so that it is asked again.
        pinned: how many messages at the start stay where the context has no room for all; the
            oldest of the others go, in pairs. None: all stay.
    """

    request_id: str
    messages: tuple[Message, ...]
    sampling: SamplingConfig
    n: int = 1
    seed: int = 0
    constraint: Constraint | None = None
    opens_with_states: bool = False
    prefix: str = ""
    steering: Steering | None = None
    pinned: int | None = None
    is_answer: Callable[["Completion"], bool] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Completion:
    """One candidate.

    Attributes:
        text: what was written.
        finish_reason: why it ended: by an end token, by its token limit, or since the server or the
            model refused.
        completion_tokens: how many tokens it has.
        left_out: the messages that the context had no room for.
        token_ids: its tokens, a server's with the end token; empty where the engine shows none.
    """

    text: str
    finish_reason: Literal["stop", "length", "refused"]
    completion_tokens: int
    left_out: int = 0
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Usage:
    """What was used: requests answered, prompt and completion tokens as the engine counts them,
    and the seconds that callers waited."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True)
class Capabilities:
    """What an engine can do; :func:`require` compares requests with it.

    ``boosts``, ``forces`` and ``bans`` are the kinds of steering; ``forces_need_grammar``: a forced
    value can only be written by the grammar.
    ``independent``: it may be asked from several threads, and answers each as if asked alone, so
    that nothing is gained by asking for many replies in one call.
    """

    top_k: bool = False
    repetition_penalty: bool = False
    penalty_outside_states: bool = False
    grammar: bool = False
    json_schema: bool = False
    prefix: bool = False
    scoring: bool = False
    boosts: bool = False
    forces: bool = False
    bans: bool = False
    forces_need_grammar: bool = False
    independent: bool = False


class Engine(Protocol):
    """A model that can be spoken to."""

    @property
    def name(self) -> str:
        """What the engine is called in error messages."""
        ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def usage(self) -> Usage:
        """What this engine was asked for so far."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        """``n`` completions for each request, in the order of the requests."""
        ...

    def choose(
        self, requests: Sequence[Request], options: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Log-probabilities of each request's options as the start of the reply.

        ``options[i]`` belongs to ``requests[i]``; -inf stands for an option that the engine gives
        no probability for.
        """
        ...

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        """How many tokens :meth:`choose` reads each text as, so that log-probabilities can be had
        per token.

        Raises:
            EngineError: the engine does not know the model's tokenizer.
        """
        ...


@runtime_checkable
class HoldsWeights(Protocol):
    """An engine whose model is in this process."""

    def weights(self) -> AbstractContextManager[tuple[Any, Any]]:
        """The transformers model with the checkpoint's adapter on, and the tokenizer, for a library
        that runs a model itself."""
        ...


@dataclass(frozen=True)
class Address:
    """A model on a server with OpenAI's completions API; ``key`` '' = none is needed."""

    base_url: str
    model: str
    key: str


@runtime_checkable
class IsServed(Protocol):
    """An engine whose model is on a server."""

    def address(self) -> Address:
        """Where it is, for a library that asks a server itself."""
        ...


def spaces_in_options(request: Request, options: Sequence[str]) -> tuple[Request, list[str]]:
    """The same options to score, with spaces at the end of the prefix at their start instead:
    tokenizers join a space to the word behind it, so that it is no end of a prompt."""
    bare = request.prefix.rstrip(" ")
    spaces = request.prefix[len(bare) :]
    return replace(request, prefix=bare), [spaces + each if each else each for each in options]


STATE_GROUPS = 2


def open_groups(request: Request) -> int:
    """State groups that the reply has still to close where the completion starts."""
    if not request.opens_with_states:
        return 0
    return max(0, STATE_GROUPS - request.prefix.count("}"))


class ReplyLimits:
    """Where a reply under way has to end: its states have a token limit of their own, and the
    utterance's starts where they end. A reply that was to open with states and does not (without
    the grammar) is all utterance."""

    def __init__(self, request: Request) -> None:
        self._utterance = request.sampling.max_new_tokens
        self._groups = open_groups(request)
        self._limit = request.sampling.max_state_tokens if self._groups else self._utterance
        self._tokens = 0
        self._opened = False

    @property
    def in_states(self) -> bool:
        """Whether the next token is one of the states."""
        return self._groups > 0

    @property
    def reached(self) -> bool:
        """Whether no further token may be drawn."""
        return self._tokens >= self._limit

    def feed(self, text: bytes) -> None:
        """Go on by one token, not the one that ends the reply."""
        self._tokens += 1
        if not self.in_states:
            return
        if not self._opened and text.strip():
            self._opened = True
            if not text.lstrip().startswith(b"{"):
                self._groups, self._limit = 0, self._utterance
                return
        self._groups -= text.count(b"}")
        if self._groups <= 0:
            self._limit = self._tokens + self._utterance


def draw_seed(request: Request, candidate: int) -> int:
    """A 63-bit seed for one candidate of one request."""
    text = f"{request.seed}|{request.request_id}|{candidate}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def shortened(request: Request) -> Request | None:
    """The request without its two oldest messages after the pinned ones; None where nothing may
    go."""
    if request.pinned is None:
        return None
    messages = conversation.shortened(request.messages, request.pinned)
    return None if messages is None else replace(request, messages=messages)


def require(engine: Engine, request: Request) -> None:
    """Check that ``engine`` can do what ``request`` asks.

    Raises:
        EngineError: it cannot; the message names the setting to change. Or the request's forces
            and its constraint do not agree.
    """
    can = engine.capabilities
    sampling, steering = request.sampling, request.steering or Steering()
    asked = {
        "top-k sampling (set top_k=0)": sampling.top_k > 0 and not can.top_k,
        "a repetition penalty (set repetition_penalty=1)": sampling.repetition_penalty != 1
        and not can.repetition_penalty,
        "a repetition penalty outside the states only (set penalise_states=true)": (
            request.opens_with_states
            and sampling.repetition_penalty != 1
            and not sampling.penalise_states
            and not can.penalty_outside_states
        ),
        "decoding under a grammar (set state_grammar=false)": request.constraint is not None
        and request.constraint.kind == "grammar"
        and not can.grammar,
        "decoding under a JSON schema": request.constraint is not None
        and request.constraint.kind == "json_schema"
        and not can.json_schema,
        "a forced start of the reply": bool(request.prefix) and not can.prefix,
        "boosts (use an engine of kind 'transformers' or 'vllm')": bool(steering.boosts)
        and not can.boosts,
        "forces (use an engine of kind 'transformers' or 'vllm')": bool(steering.forces)
        and not can.forces,
        "forces without a grammar (set state_grammar=true)": bool(steering.forces)
        and can.forces
        and can.forces_need_grammar
        and request.constraint is None,
        "bans (use an engine of kind 'transformers' or 'vllm')": bool(steering.bans)
        and not can.bans,
    }
    if missing := [what for what, lacking in asked.items() if lacking]:
        raise EngineError(f"the engine '{engine.name}' cannot do: {'; '.join(missing)}")
    if request.constraint is not None and request.constraint.forces != steering.forces:
        raise EngineError(
            f"the constraint of '{request.request_id}' does not hold what its steering forces; "
            "make it with sac_grammar(steering.forces), or leave it out"
        )
