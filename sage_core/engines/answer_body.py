"""The body of a server's answer. What is missing or has another type is left out, so that an answer
that was paid for is not lost for what is not needed of it."""

import json
from dataclasses import dataclass
from typing import Any

_MARKS_OF_SPACES = " \t\r\n\u0120\u2581"  # as some servers show the vocabulary's own spelling


@dataclass(frozen=True)
class Choice:
    """One choice of an answer.

    Attributes:
        text: what was written; None: it is not a reply.
        reasoning: what the model wrote before it, where the server keeps it apart.
        refusal: why the model does not reply, where the server keeps it apart.
        first_tokens: the most likely first tokens with their log-probabilities; None: not told.
        logprobs: the server's own, as they are.
    """

    index: int
    text: str | None
    reasoning: str
    refusal: str
    finish_reason: str
    token_ids: tuple[int, ...] | None
    logprobs: Any

    @property
    def first_tokens(self) -> list[tuple[str, float]] | None:
        content = self.logprobs.get("content") if isinstance(self.logprobs, dict) else None
        if not isinstance(content, list) or not content or not isinstance(content[0], dict):
            return None
        entries = content[0].get("top_logprobs") or content[:1]
        return [
            (str(entry["token"]), entry["logprob"])
            for entry in entries
            if isinstance(entry, dict) and "token" in entry
            and isinstance(entry.get("logprob"), float | int)
        ]  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """A server's answer; counts of tokens are None where it does not tell them."""

    choices: tuple[Choice, ...]
    prompt_tokens: int | None
    completion_tokens: int | None
    body: Any

    @property
    def is_counted(self) -> bool:
        return self.prompt_tokens is not None and self.completion_tokens is not None


def decoded(content: bytes) -> str:
    """The text of a body: UTF-8, as JSON is, else Latin-1, which every body is."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def read_answer(body: Any) -> Answer:
    """An answer of chat completions or of completions."""
    body = body if isinstance(body, dict) else {"body": body}
    choices, usage = body.get("choices"), body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Answer(
        tuple(
            _choice(number, choice)
            for number, choice in enumerate(choices if isinstance(choices, list) else [])
            if isinstance(choice, dict)
        ),
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
        body,
    )


def text_of(content: Any) -> str:
    """The text of a message, which may come in parts; thoughts among them are left out."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(text_of(part) for part in content)
    if isinstance(content, dict) and content.get("type", "text") in ("text", "output_text"):
        return text_of(content.get("text"))
    return ""


def spelled(token: str) -> str:
    """A token without the spaces around it."""
    return token.strip(_MARKS_OF_SPACES)


def _choice(number: int, choice: dict[str, Any]) -> Choice:
    message = choice.get("message")
    text = choice.get("text")
    reasoning = refusal = ""
    if isinstance(message, dict):
        text = text_of(message.get("content"))
        reasoning = text_of(message.get("reasoning_content") or message.get("reasoning"))
        refusal = text_of(message.get("refusal"))
    index, ids = choice.get("index"), choice.get("token_ids")
    return Choice(
        index if isinstance(index, int) else number,
        text if isinstance(text, str) else None,
        reasoning,
        refusal,
        str(choice.get("finish_reason") or ""),
        tuple(ids) if isinstance(ids, list) else None,
        choice.get("logprobs"),
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def as_json(content: bytes) -> Any:
    """The JSON of a body.

    Raises:
        json.JSONDecodeError: it holds none.
    """
    return json.loads(decoded(content))
