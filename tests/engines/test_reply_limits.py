"""Where a reply has to end: both engines that know tokens cut at the same one."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sage_core.config.engine import SamplingConfig
from sage_core.engines.base import Completion, ReplyLimits, Request
from sage_core.engines.managed_vllm import VllmEngine
from sage_core.schema import Message

HOW = SamplingConfig(max_state_tokens=4, max_new_tokens=2)
ASKED = Request("r", (Message("user", "hi"),), HOW, opens_with_states=True)
END = ""  # the token that ends a reply has no text


def tokens_allowed(request: Request, tokens: list[str]) -> int:
    limits = ReplyLimits(request)
    for number, text in enumerate(tokens, start=1):
        limits.feed(text.encode())
        if limits.reached:
            return number
    return len(tokens)


@pytest.mark.parametrize(
    ("request_", "tokens", "allowed"),
    [
        (ASKED, [" {a", "}", " {b}", " Oh", " no", "!"], 5),  # 3 of states, 2 of the utterance
        (ASKED, ["{", "a", "b", "c", "}"], 4),  # states that do not close
        (ASKED, [" ", "Oh", " no", "!"], 2),  # no states at all
        (ASKED, ["{a} {b} Oh", " no", "!", "!"], 3),  # a token may hold both groups
        (replace(ASKED, prefix="{a}"), [" {b}", " Oh", " no", "!"], 3),  # one group is there
        (replace(ASKED, prefix="{a} {b}"), [" Oh", " no", "!"], 2),  # both are
        (replace(ASKED, opens_with_states=False), ["{", "}", "!"], 2),
    ],
)
def test_states_and_utterance_have_limits_of_their_own(
    request_: Request, tokens: list[str], allowed: int
) -> None:
    assert tokens_allowed(request_, tokens) == allowed


@pytest.mark.parametrize(
    ("tokens", "reason", "expected"),
    [
        (["{a}", " {b}", " Oh", END], "stop", ("{a} {b} Oh", "stop", 4)),
        (["{a}", " {b}", " Oh", " no", "!", END], "stop", ("{a} {b} Oh no", "length", 4)),
        # As many tokens as allowed, then the end: the engine in this process never sees it.
        (["{a}", " {b}", " Oh", " no", END], "stop", ("{a} {b} Oh no", "length", 4)),
        (["{a", "b", "c", "d", "}", "e"], "length", ("{abcd", "length", 4)),
    ],
)
def test_a_server_is_cut_where_this_process_would_stop(
    tokens: list[str], reason: Any, expected: tuple[str, str, int]
) -> None:
    def decode(ids: tuple[int, ...], **_: Any) -> str:
        return "".join(tokens[each] for each in ids)

    engine = VllmEngine.__new__(VllmEngine)
    engine._server = SimpleNamespace(  # type: ignore[assignment]
        prompts=SimpleNamespace(lead=""),
        vocabulary=SimpleNamespace(texts=[each.encode() for each in tokens]),
        tokenizer=SimpleNamespace(decode=decode),
    )
    ids = tuple(range(len(tokens)))
    found = engine._limited(Completion(decode(ids), reason, len(ids), 0, ids), ASKED)
    assert (found.text, found.finish_reason, found.completion_tokens) == expected
