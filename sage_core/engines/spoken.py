"""How one model on one server is spoken to: what the settings and the table say, corrected by small
requests.

A server that refuses a parameter says so to the first request already. So before a stage one small
request is sent that has the parameters of the stage's own; what it refuses is sent in the next way,
until it is answered. Nothing is learned from other requests: what is said in them, such as a
content filter's refusal, is about their text.
"""

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sage_core.config.engine import SamplingConfig
from sage_core.engines.answer_body import Answer
from sage_core.engines.base import Request
from sage_core.engines.grammar import json_schema
from sage_core.engines.parameters import WAYS, Parameters, differences, next_way
from sage_core.engines.refusals import (
    is_cut_short,
    is_passing,
    may_be_a_parameter,
    refused,
    shortened,
)
from sage_core.errors import EngineError
from sage_core.schema import Message

QUESTION = "Count from one to forty, in words."
DESCRIBE = "Describe this message: I lost my keys today."
_SYSTEM = "You are helpful and brief."
_TOKENS, _JSON_TOKENS = 8, 64
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shape:
    """What of the parameters a request has.

    Attributes:
        names: the parameters that it has.
        greedy: its temperature is 0.
    """

    names: frozenset[str]
    greedy: bool

    @classmethod
    def of(cls, request: Request, *, scored: bool) -> "Shape":
        """The shape of a request; ``scored``: its options are to be scored."""
        has = {
            "answer_budget": True,
            "temperature": True,
            "seed": not scored,
            "n": not scored and request.n > 1,
            "top_logprobs": scored,
            "structured_output": not scored and _schema(request) is not None,
            "system_role": any(message.role == "system" for message in request.messages),
        }
        names = frozenset(name for name, sent in has.items() if sent)
        return cls(names, scored or request.sampling.temperature == 0)


class Spoken:
    """How one model on one server is spoken to.

    Attributes:
        first: what is sent as long as nothing was refused; answers are kept under it.
        now: what is sent.
        changes: parameter -> what is sent instead, and what the server said.
        silence: why nothing could be found out the last time; "" where it could.
    """

    def __init__(self, first: Parameters, settled: frozenset[str]) -> None:
        self.first = self.now = first
        self.changes: dict[str, str] = {}
        self.silence = ""
        self._settled = settled
        self._refused: set[tuple[str, Any]] = set()
        self._tried: set[Shape] = set()
        self._lock = threading.Lock()

    def is_tried(self, shape: Shape) -> bool:
        return shape in self._tried

    def settle(self, shape: Shape, request: Request, ask: Callable[[], Answer]) -> None:
        """Find out how requests of a shape are sent; once, whoever asks.

        A server that gives no answer is not found out about; the stage's own requests, which are
        sent again where that may help, say what is wrong.

        Args:
            request: what ``ask`` sends, as :attr:`now` says (:func:`small`).

        Raises:
            EngineError: the server refuses the request however it is sent.
        """
        with self._lock:
            before = self.now, dict(self.changes)
            self.silence = ""
            while shape not in self._tried:
                try:
                    answer = ask()
                except EngineError as error:
                    if is_cut_short(error.said):  # of the few tokens only
                        self._tried.add(shape)
                        return
                    if error.status and self._answered(shape, error):
                        continue
                    if not error.status or is_passing(error.status):
                        self.silence = str(error)
                        return
                    self.now, self.changes = before
                    raise EngineError(str(error)) from None  # whatever is asked
                else:
                    if "top_logprobs" in shape.names and not _is_scored(answer):
                        raise EngineError("logprobs is ignored")
                    ignored = _ignored(shape, self.now, request, answer)
                    if not ignored or not self._change(ignored, "it is ignored"):
                        self._tried.add(shape)

    def _answered(self, shape: Shape, error: EngineError) -> bool:
        """Whether there is another way to send what a server refuses."""
        name = refused(error, shape.names)
        if name is not None:
            return self._change(name, shortened(error.said))
        if not may_be_a_parameter(error):
            return False
        why = f"refused, without the parameter's name: {shortened(error.said)}"
        return any(self._change(name, why) for name in WAYS if name in shape.names)

    def _change(self, name: str, why: str) -> bool:
        if name in self._settled:
            return False
        self._refused.add((name, getattr(self.now, name)))
        changed = next_way(self.now, name, self._refused)
        if changed is None:
            return False
        self.now = changed
        how = differences(self.first, self.now).get(name, "as before")
        self.changes[name] = f"{how} ({why})"
        _log.warning("%s: %s", name, self.changes[name])
        return True


def small(request: Request) -> Request:
    """A request that has the parameters of ``request``, and asks for a few tokens."""
    schema = _schema(request)
    roles = {message.role for message in request.messages}
    question = Message("user", QUESTION if schema is None else DESCRIBE)
    return Request(
        request_id="the trial of its parameters",
        messages=(*((Message("system", _SYSTEM),) if "system" in roles else ()), question),
        sampling=SamplingConfig(
            temperature=request.sampling.temperature,
            top_k=0,
            repetition_penalty=1,
            max_new_tokens=_TOKENS if schema is None else _JSON_TOKENS,
        ),
        n=request.n,
        seed=request.seed,
        constraint=request.constraint if schema is not None else None,
    )


def sample(*, scored: bool, schema: bool) -> Request:
    """A request as roles make them, to be tried without one of their own."""
    constraint = json_schema({"answer": {"type": "string"}}) if schema else None
    sampling = SamplingConfig(temperature=0, top_k=0, repetition_penalty=1)
    said = (Message("system", _SYSTEM), Message("user", QUESTION))
    return small(Request("sample", said, sampling, constraint=None if scored else constraint))


def _schema(request: Request) -> str | None:
    constraint = request.constraint
    return constraint.text if constraint and constraint.kind == "json_schema" else None


def _ignored(shape: Shape, sent: Parameters, request: Request, answer: Answer) -> str | None:
    """A parameter that the server took and did not heed, as far as the answer shows it."""
    written = (answer.completion_tokens or 0) / max(len(answer.choices), 1)
    if "top_logprobs" not in shape.names and written > 2 * request.sampling.max_new_tokens:
        return "answer_budget"
    if "structured_output" in shape.names and sent.structured_output != "prompt":
        ended = [each.text for each in answer.choices if each.finish_reason == "stop" and each.text]
        if ended and not any(map(_is_object, ended)):
            return "structured_output"
    return None


def _is_scored(answer: Answer) -> bool:
    return any(choice.first_tokens for choice in answer.choices)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
