"""What servers say when they refuse a request. Each has its own wording and its own body."""

import json
import re
from collections.abc import Collection
from typing import Any

from sage_core.errors import EngineError

_LONGEST = 1000  # characters of a body that are shown
_USUAL = {"message", "type", "param", "code", "status", "object"}
_NOT_THE_REQUEST = (401, 403, 404, 408, 409, 429)

_TOO_LONG = re.compile(
    r"context[ _-]?(?:length|size|window|limit)"  # OpenAI, vLLM, llama.cpp, SGLang, Ollama, ...
    r"|maximum model length"  # vLLM
    r"|maximum (?:prompt|input) length"
    r"|maximum allowed length"  # SGLang
    r"|\binputs`? (?:tokens \+|must have less than)"  # TGI
    r"|(?:prompt|input) (?:is )?too long"  # Anthropic, Ollama
    r"|\bn_ctx\b"  # LM Studio
    r"|too large (?:for model with|to process)"  # Mistral, llama.cpp
    r"|input token count .{0,40}exceeds"  # Gemini
    r"|tokens exceed the configured limit",  # OpenAI
    re.IGNORECASE,
)
_NAMES = {
    "top_logprobs": r"top_logprobs",
    "structured_output": r"response_format|json_schema|json_object|json schema|structured|guided",
    "system_role": r"system (?:role|message|prompt|instruction)|['\"`]system['\"`]"
    r"|role.{0,40}system|roles must alternate|developer instruction",
    "temperature": r"temperature",
    "seed": r"\bseed\b",
    "n": r"['\"`]n['\"`]|^n$|\bbody\.n\b|\bn (?:>|=|must|should|is)|one completion choice",
    "answer_budget": r"max_completion_tokens|max_tokens|max_new_tokens",
}
_TOO_SMALL = re.compile(r"could not finish the message|output limit was reached", re.IGNORECASE)


def is_passing(status: int) -> bool:
    """Whether the same request may be answered later; the client sends these again."""
    return status in (408, 409, 429) or status >= 500


def shown(body: Any) -> str:
    """The body of an error for people: its message where that is all, else the whole."""
    if isinstance(body, str):
        return shortened(body, _LONGEST)
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, str):
        return shortened(error, _LONGEST)
    message = error.get("message") if isinstance(error, dict) else None
    if isinstance(message, str) and message and set(error) <= _USUAL:
        return shortened(message, _LONGEST)
    return shortened(json.dumps(body, ensure_ascii=False), _LONGEST)


def about_request(body: Any) -> str:
    """What an error says of the request, without what it repeats of it."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return str(error)
    found = [str(error[name]) for name in ("param", "code", "message") if error.get(name)]
    details = error.get("detail")
    for each in details if isinstance(details, list) else [details]:
        if isinstance(each, dict):  # FastAPI's, whose 'input' is the whole request
            where = ".".join(map(str, each.get("loc") or ()))
            found.append(f"{where}: {each.get('msg', '')}")
        elif each:
            found.append(str(each))
    return "\n".join(found) or json.dumps(body)


def is_too_long(status: int, said: str) -> bool:
    """Whether a server refuses a conversation since its context has no room for it."""
    return status not in _NOT_THE_REQUEST and bool(_TOO_LONG.search(said))


def is_cut_short(said: str) -> bool:
    """Whether a server refuses to give an answer that its limit of tokens ended."""
    return bool(_TOO_SMALL.search(said))


def refused(error: EngineError, sent: Collection[str]) -> str | None:
    """The parameter, of those ``sent``, that the server refuses; None: it does not say."""
    if error.status in _NOT_THE_REQUEST or is_cut_short(error.said):
        return None
    for name, pattern in _NAMES.items():
        if name in sent and re.search(pattern, error.said, re.IGNORECASE | re.MULTILINE):
            return name
    return None


def may_be_a_parameter(error: EngineError) -> bool:
    """Whether a refusal that names no parameter may be about one."""
    return error.status in (400, 422) and not is_cut_short(error.said)


def shortened(text: Any, limit: int = 200) -> str:
    """One line, of ``limit`` characters at most."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else f"{line[:limit]}..."
