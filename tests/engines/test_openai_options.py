"""Scoring of options over HTTP: by the first token, or token by token on a vLLM server."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from openai_server import Server, asked, completion

from sage_core.errors import EngineError


def logprobs(**tokens: float) -> dict[str, Any]:
    entries = [
        {"token": token.replace("_", " "), "logprob": value, "bytes": None}
        for token, value in tokens.items()
    ]
    return {"logprobs": {"content": [{**entries[0], "top_logprobs": entries}]}}


def test_choose_reads_the_first_tokens_probabilities(server: Server) -> None:
    tokens = {"B": -0.25, "_A": -1.5, "A": -3.0, "C": -9.0, "_B": -9.5}
    server.answer = lambda body: (200, completion("B", **logprobs(**tokens)))
    scores = server.engine().choose([asked("r"), asked("s")], [["A", "B", "D"], ["C", " B"]])
    a, b = np.logaddexp(-1.5, -3), np.logaddexp(-0.25, -9.5)
    assert scores == [pytest.approx([a, b, float("-inf")]), pytest.approx([-9.0, b])]
    body = server.bodies[0]
    assert (body["logprobs"], body["top_logprobs"], body["max_completion_tokens"]) == (True, 20, 1)


def test_an_option_that_is_no_token_is_refused(server: Server) -> None:
    server.answer = lambda body: (200, completion("Ver", **logprobs(Ver=-0.1, yes=-2.0)))
    assert server.engine().choose([asked("r")], [["yes", "X"]]) == [[-2.0, float("-inf")]]
    with pytest.raises(EngineError, match=r"cannot score 'Verdict: A' for 'r': it is not a single"):
        server.engine().choose([asked("r")], [["yes", "Verdict: A"]])
    for kind in ("openai", "vllm"):
        with pytest.raises(EngineError, match="an option of 'r' is empty"):
            server.engine(server=kind).choose([asked("r")], [["yes", ""]])


class ByteModel:
    """A vLLM server whose tokens are bytes; the next token's probability falls with its distance
    from the byte before: log p = -(|difference|) - 1."""

    def __call__(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if "max_tokens" not in body:
            text = body.get("prompt") or "".join(m["content"] for m in body["messages"])
            return 200, {"tokens": list(text.encode()), "count": len(text)}
        choices = []
        for index, prompt in enumerate(body["prompt"]):
            top = {f"token_id:{t}": self.score(prompt[-1], t) for t in body["logprob_token_ids"]}
            top["token_id:7"] = -0.5  # the token drawn
            logprob = {"tokens": ["token_id:7"], "token_logprobs": [-0.5], "top_logprobs": [top],
                       "text_offset": [0]}  # fmt: skip
            choices.append(
                {"index": index, "finish_reason": "length", "text": "", "logprobs": logprob}
            )
        usage = {"prompt_tokens": 5, "completion_tokens": len(choices), "total_tokens": 6}
        answer = {"id": "x", "object": "text_completion", "created": 0, "model": "m"}
        return 200, {**answer, "choices": choices[::-1], "usage": usage}

    @staticmethod
    def score(before: int, token: int) -> float:
        return -9999.0 if token == ord("!") else -abs(before - token) - 1.0


def test_a_vllm_server_scores_whole_options(server: Server) -> None:
    """Prompt 'm': log p of 'n' is -2, of 'np' -2 - 3 = -5, of 'a' -13, of 'nq' -2 - 4 = -6."""
    server.answer = ByteModel()
    engine = server.engine(server="vllm", max_concurrency=1)
    scores = engine.choose([asked("r", "m")], [["n", "np", "a", "nq", "np!"]])
    assert scores == [[-2.0, -5.0, -13.0, -6.0, float("-inf")]]
    sent = [body for body in server.bodies if "max_tokens" in body]
    # The prompt once, then what follows 'n' and 'np' together.
    assert [body["prompt"] for body in sent] == [[[109]], [[109, 110], [109, 110, 112]]]
    assert [body["logprob_token_ids"] for body in sent] == [[97, 110], [33, 112, 113]]
    assert {body["max_tokens"] for body in sent} == {1}
    assert set(server.paths) == {"/tokenize", "/v1/completions"}
    # Options of one token need the prompt alone, and are not tokenised again.
    server.bodies.clear()
    assert engine.choose([asked("s", "b")], [["a", "n"]]) == [[-2.0, -13.0]]
    assert [("prompt" in body, "messages" in body) for body in server.bodies] == [
        (False, True), (True, False)]  # fmt: skip


def test_a_forced_start_is_part_of_the_scored_prompt(server: Server) -> None:
    server.answer = ByteModel()
    (scores,) = server.engine(server="vllm").choose([asked("r", "m", prefix="x")], [["y"]])
    assert scores == [-2.0]
    chat = next(body for body in server.bodies if "messages" in body)
    assert chat["messages"][-1] == {"role": "assistant", "content": "x"}
    assert (chat["continue_final_message"], chat["add_generation_prompt"]) == (True, False)


def test_many_different_options_are_asked_for_in_parts(server: Server) -> None:
    server.answer = ByteModel()
    options = [
        f"{chr(97 + number % 20)}{chr(40 + number)}{chr(33 + number)}" for number in range(80)
    ]
    (scores,) = server.engine(server="vllm").choose([asked("r", "m")], [options])
    for option, score in zip(options, scores, strict=True):
        letters = f"m{option}".encode()
        expected = sum(ByteModel.score(a, b) for a, b in pairwise(letters))
        assert score == (float("-inf") if "!" in option else expected)
    assert all(len(b["logprob_token_ids"]) <= 128 for b in server.bodies if "max_tokens" in b)


def test_a_server_that_is_no_vllm(server: Server) -> None:
    server.answer = lambda body: (200, {"id": "x"})
    with pytest.raises(EngineError, match="has no /tokenize as a vLLM server has; set server"):
        server.engine(server="vllm").choose([asked("r")], [["A"]])
    tokens = ByteModel()
    server.answer = lambda body: (
        tokens(body) if "max_tokens" not in body else (200, {"choices": [{"index": 0, "text": ""}]})
    )
    with pytest.raises(EngineError, match=r"use vLLM 0\.32 or newer"):
        server.engine(server="vllm").choose([asked("r")], [["A"]])


def test_a_server_without_probabilities(server: Server) -> None:
    server.answer = lambda body: (200, completion("B"))
    with pytest.raises(EngineError, match="returned no log-probabilities"):
        server.engine().choose([asked("r")], [["A", "B"]])
