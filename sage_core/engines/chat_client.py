"""What is sent to a server for a request, in the parameters that it takes."""

from functools import cached_property, partial
from json import loads
from typing import TYPE_CHECKING, Any

from sage_core.config.servers import OpenAIConfig
from sage_core.engines.answer_body import Answer
from sage_core.engines.answers import AnswerStore
from sage_core.engines.asking import ServerClient
from sage_core.engines.base import Request
from sage_core.engines.messages import Messages, asking_for_json, without_system
from sage_core.engines.parameters import Parameters, first_tried, settled
from sage_core.engines.special_tokens import spaced
from sage_core.engines.spoken import Shape, Spoken, small
from sage_core.errors import EngineError
from sage_core.execution import noter
from sage_core.storage import digest

if TYPE_CHECKING:
    from openai import OpenAI

SEEDS = 2**31


def no_scores(who: str) -> str:
    """What to do about a server that gives no log-probabilities."""
    return (
        f"{who} returned no log-probabilities (logprobs, top_logprobs): set search.selector.engine "
        "to a server and model that return them, or search.selector.name=reward_model, which asks "
        "no server; a judge needs them with evaluation.judges.soft=true only"
    )


class ChatClient(ServerClient):
    """Writes requests for chat completions, and finds out how a server takes them."""

    def __init__(self, config: OpenAIConfig, answers: AnswerStore | None = None) -> None:
        super().__init__(config, answers)
        self._note = noter()

    # --- what is sent -----------------------------------------------------------------------------

    def _resource(self, client: "OpenAI") -> Any:
        """What of the client generates."""
        return client.chat.completions

    def _arguments(self, request: Request, ways: Parameters) -> dict[str, Any]:
        """What is sent for ``request``, but for the number of choices and the seed."""
        return {
            "model": self.config.model,
            "messages": self._messages(request, ways),
            **ways.warmth(request.sampling.temperature),
            **ways.budget(request.sampling.budget(request.opens_with_states)),
            **self._format(request, ways),
            "extra_body": {**self._extra(request), **self.config.parameters.extra_body},
        }

    def _messages(self, request: Request, ways: Parameters) -> Messages:
        """The conversation. OpenAI keeps its special tokens apart from what is said; other servers
        may read one wherever it is."""
        plain = spaced if self.config.base_url else str
        messages = [{"role": m.role, "content": plain(m.content)} for m in request.messages]
        if (schema := self._schema(request)) and ways.structured_output != "json_schema":
            messages = asking_for_json(messages, schema)
        return messages if ways.system_role else without_system(messages)

    def _format(self, request: Request, ways: Parameters) -> dict[str, Any]:
        """How JSON is asked for, besides in words."""
        schema = self._schema(request)
        if schema is None or ways.structured_output == "prompt":
            return {}
        if ways.structured_output == "json_object":
            return {"response_format": {"type": "json_object"}}
        sent = {"name": "reply", "strict": True, "schema": loads(schema)}
        return {"response_format": {"type": "json_schema", "json_schema": sent}}

    @staticmethod
    def _schema(request: Request) -> str | None:
        constraint = request.constraint
        return constraint.text if constraint and constraint.kind == "json_schema" else None

    def _extra(self, request: Request) -> dict[str, Any]:
        """What this kind of server takes besides."""
        return {}

    def _scored(self, request: Request, ways: Parameters) -> dict[str, Any]:
        return {
            **self._arguments(request, ways),
            **ways.budget(1),
            **ways.warmth(0),
            "logprobs": True,
            "top_logprobs": ways.top_logprobs,
        }

    # --- sending it -------------------------------------------------------------------------------

    def _draw(
        self, of: str, arguments: dict[str, Any], n: int, seed: int, retries: int | None = None
    ) -> Answer:
        """What the server answers to ``arguments``, counted."""
        now = self._spoken.now
        drawn = {**({"n": n} if now.n else {}), **({"seed": seed} if now.seed else {})}
        return self._asked(of, {**arguments, **drawn}, retries)

    def _asked(self, of: str, arguments: dict[str, Any], retries: int | None = None) -> Answer:
        client = self._client if retries is None else self._client.with_options(max_retries=retries)
        answer: Answer = self._ask(
            of, partial(self._answer_of, self._resource(client), **arguments)
        )
        self._count_answer(answer)
        return answer

    # --- how the server is spoken to --------------------------------------------------------------

    @cached_property
    def _spoken(self) -> Spoken:
        found: Spoken = self._answers.spoken.setdefault(
            self._spoken_key, Spoken(first_tried(self.config), settled(self.config))
        )
        return found

    @property
    def _spoken_key(self) -> str:
        sent = {"server": self.config.server, **self.config.parameters.model_dump()}
        return self._key("parameters", model=self.config.model, parameters=sent)

    def settle(self, request: Request, *, scored: bool) -> dict[str, str]:
        """Find out, by a small request, how requests like this one are sent; ``scored``: their
        options are to be scored. Gives the parameters that are sent in another way than first
        tried, and why; does not wait for a server that fails in passing.

        Raises:
            EngineError: the server refuses them, or does not answer.
        """
        self.check()
        ask = partial(self._try, request, scored)
        try:
            self._spoken.settle(Shape.of(request, scored=scored), small(request), ask)
        except EngineError as error:
            if scored and "logprob" in str(error):
                raise EngineError(f"{error}; {no_scores(self._who)}") from None
            raise
        return self._spoken.changes

    def _settle(self, request: Request, *, scored: bool) -> None:
        if self._spoken.is_tried(Shape.of(request, scored=scored)):
            return
        if changes := self.settle(request, scored=scored):
            self._answers.put(self._spoken_key, changes)

    def _try(self, request: Request, scored: bool) -> Answer:
        trial = small(request)
        if scored:
            return self._asked(trial.request_id, self._scored(trial, self._spoken.now), 0)
        arguments = self._arguments(trial, self._spoken.now)
        return self._draw(trial.request_id, arguments, trial.n, trial.seed % SEEDS, 0)

    @property
    def silence(self) -> str:
        """Why :meth:`settle` found out nothing; "" where it did."""
        return self._spoken.silence

    def _note_changes(self) -> None:
        """Have what is sent otherwise than first tried written down, also where all answers were
        kept."""
        found = self._spoken.changes or self._answers.get(self._spoken_key) or {}
        if found:
            changes = "; ".join(f"{name}: {how}" for name, how in sorted(found.items()))
            self._note(f"parameters of {self.name} at {self.config.where}", changes)

    def _key(self, what: str, **sent: Any) -> str:
        return digest({"server": self.kept_as, "what": what, "sent": sent})
