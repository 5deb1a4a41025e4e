"""An engine that needs no model: its replies and scores come from functions of the test."""

from collections.abc import Callable, Sequence

from sage_core.engines.base import Capabilities, Completion, Request, Usage


class ScriptedEngine:
    """Answers each candidate with ``reply(request, candidate)`` and scores each option with
    ``score(request, option)``."""

    name = "scripted"
    capabilities = Capabilities(
        top_k=True,
        repetition_penalty=True,
        penalty_outside_states=True,
        grammar=True,
        json_schema=True,
        prefix=True,
        scoring=True,
        boosts=True,
        forces=True,
        bans=True,
    )

    def __init__(
        self,
        reply: Callable[[Request, int], str],
        score: Callable[[Request, str], float] = lambda request, option: 0.0,
    ) -> None:
        self._reply = reply
        self._score = score
        self.usage = Usage()

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        return [
            [
                Completion(text := self._reply(request, candidate), "stop", len(text.split()))
                for candidate in range(request.n)
            ]
            for request in requests
        ]

    def choose(
        self, requests: Sequence[Request], options: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        return [
            [self._score(request, option) for option in choices]
            for request, choices in zip(requests, options, strict=True)
        ]

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]
