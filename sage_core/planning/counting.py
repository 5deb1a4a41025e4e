"""An engine that loads nothing: it answers with placeholder text, and counts."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sage_core.annotation import write_state
from sage_core.config.plan import PlanConfig
from sage_core.engines.base import Capabilities, Completion, Request, Usage
from sage_core.engines.grammar import (
    action_grammar,
    states_grammar,
    user_grammar,
    utterance_grammar,
)
from sage_core.sac import AGENT, USER, StateAction, render_state
from sage_core.schema import Message

_WORD = re.compile(r"[^\W_]+|[^\w\s]+|_|\n+")


@dataclass(frozen=True)
class Text:
    """Placeholder text of planned lengths."""

    plan: PlanConfig

    def tokens(self, text: str) -> float:
        """How many tokens a text has, by its words and runs of punctuation."""
        return self.plan.tokens_per_word * len(_WORD.findall(text))

    def of(self, tokens: float, number: int = 0) -> str:
        """Text of about so many tokens; another number gives another text."""
        words = max(1, round(tokens / self.plan.tokens_per_word))
        return " ".join(["word"] * (words - 1) + [f"word{number}"])

    def conversation(self, messages: Sequence[Message]) -> float:
        """Tokens of messages under the chat template."""
        special = self.plan.message_tokens * len(messages)
        return special + sum(self.tokens(message.content) for message in messages)

    def state(self, number: int = 0) -> StateAction:
        """A state whose text has ``state_tokens``; another number is another motivation."""
        bare = StateAction(f"interest{number}", "content", ("word",))
        missing = self.plan.state_tokens - self.tokens(render_state(bare, AGENT.written))
        return replace(bare, topics=(self.of(max(1.0, missing)),))


class CountingEngine:
    """Answers every request with placeholder text and counts; see the module.

    Requests and prompts are counted as the other engines count them, completions by their text.
    """

    name = "plan"
    capabilities = Capabilities(
        top_k=True, repetition_penalty=True, penalty_outside_states=True, grammar=True,
        json_schema=True, prefix=True, scoring=True, boosts=True, forces=True, bans=True,
    )  # fmt: skip

    def __init__(self, text: Text, max_context: int, reply_tokens: float) -> None:
        self.usage = Usage()
        self.longest_prompt = 0
        self._text, self._max_context, self._reply = text, max_context, reply_tokens

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        answers = []
        for request in requests:
            texts = [self._answer(request, number) for number in range(request.n)]
            most = request.sampling.budget(request.opens_with_states)
            lengths = [min(most, round(self._length(request, text))) for text in texts]
            self._count(request, sum(lengths))
            answers.append(
                [Completion(text, "stop", n) for text, n in zip(texts, lengths, strict=True)]
            )
        return answers

    def choose(
        self, requests: Sequence[Request], options: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        for request, choices in zip(requests, options, strict=True):
            self._count(request, 0, sum(max(0, n - 1) for n in self.token_counts(choices)))
        return [[-float(place) for place in range(len(each))] for each in options]

    def token_counts(self, texts: Sequence[str]) -> list[int]:
        return [round(self._text.tokens(text)) for text in texts]

    def _length(self, request: Request, text: str) -> float:
        if request.constraint is not None and request.constraint.kind == "json_schema":
            return self._text.plan.annotation_tokens
        return self._text.tokens(text)

    def _count(self, request: Request, written: int, scored: int = 0) -> None:
        # One more message: the special tokens that open the reply.
        special = self._text.plan.message_tokens
        prompt = (
            special + self._text.conversation(request.messages) + self._text.tokens(request.prefix)
        )
        room = self._max_context - request.sampling.budget(request.opens_with_states)
        read = min(round(prompt), room)
        self.longest_prompt = max(self.longest_prompt, read)
        self.usage += Usage(1, read + scored, written)

    def _answer(self, request: Request, number: int) -> str:
        state = self._text.state(number)
        if request.constraint is None and request.is_answer is not None:
            return self._read_answer(request, number)
        user, agent = (render_state(state, prefix) for prefix in (USER.written, AGENT.written))
        utterance = self._text.of(self._reply, number)
        constraint = request.constraint
        if constraint is not None and constraint.kind == "json_schema":
            return write_state(state)
        if constraint == user_grammar():
            return user
        if constraint == action_grammar():
            return f" {agent}"
        if constraint == states_grammar():
            return f"{user} {agent}"
        if constraint == utterance_grammar():
            return f" {utterance}"
        if constraint is not None and not request.opens_with_states:
            return "Verdict: tie"  # the judge's is the only grammar besides those of states
        return f"{user} {agent} {utterance}" if request.opens_with_states else utterance

    def _read_answer(self, request: Request, number: int) -> str:
        """Text that whoever asks can read, where no constraint says what that is."""
        texts = (
            self._text.of(self._reply, number),
            "Verdict: tie",
            write_state(self._text.state(number)),
        )
        assert request.is_answer is not None
        readable = (each for each in texts if request.is_answer(Completion(each, "stop", 0)))
        return next(readable, texts[0])
