"""How a loaded model generates and scores: the fastest way that gives what its own forward pass
gives on a few tokens. No list of model names decides.

Two prompts of different lengths are continued by two given continuations each; the logits at every
place are compared with those of a pass over each whole sequence alone (for what precision, see
:mod:`sage_core.engines.comparing`). The ways, the fastest first:

1. *shared*: prompts are read once for all candidates (:mod:`sage_core.engines.shared_prefix`).
2. *batched*: transformers' ``generate`` on padded batches (:mod:`sage_core.engines.plain`).
3. *single*: the same, one row at a time. It pads nothing and is not compared: where it differs from
   one pass over all tokens, so does transformers itself.

A few tokens show no sliding window or chunk, so sharing also needs a cache of full attention only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from sage_core.engines import plain, shared_prefix
from sage_core.engines.comparing import (
    agrees,
    difference,
    in_float32,
    once,
    plain_logits,
    test_tokens,
)

Way = Literal["shared", "batched", "single"]
_COMMON, _CONTINUED = 4, 3  # tokens
_LENGTHS = (6, 9)
_IN_WORDS: dict[Way, str] = {
    "shared": "shared prompts",
    "batched": "padded batches by transformers",
    "single": "one row at a time by transformers",
}


@dataclass(frozen=True)
class Generation:
    """How a model generates, and why not in a faster way ('': this is the fastest)."""

    way: Way
    reason: str = ""

    def __str__(self) -> str:
        return _IN_WORDS[self.way] + (f" ({self.reason})" if self.reason else "")


@dataclass(frozen=True)
class _Case:
    """Two prompts, their four continuations (R, T), two each, and the logits that have to be found
    (R, T + 1, V): before each token of a continuation, and behind the last."""

    prompts: list[list[int]]
    continued: torch.Tensor
    expected: torch.Tensor


def generation(model: Any, tokenizer: Any) -> Generation:
    """How ``model`` generates: found once per process for models of one class and configuration.

    Raises:
        EngineError: its own forward pass fails.
    """
    tokens = test_tokens(tokenizer, max(_LENGTHS) + 4 * _CONTINUED + _LENGTHS[0])
    return once("generation", model, partial(_find, model, tokens))


@torch.no_grad()
def _find(model: Any, tokens: list[int]) -> Generation:
    with in_float32(model) as tolerance:
        case = _case(model, tokens)
        reasons = []
        if shared_prefix.supports(model):
            found = agrees("shared prompts", partial(_shared, model, case), tolerance)
            if not found:
                return Generation("shared")
            reasons.append(found)
        else:
            reasons.append("not all layers have full attention")
        found = agrees("padded batches", partial(_batched, model, case), tolerance)
        if not found:
            return Generation("batched", reasons[0])
        return Generation("single", "; ".join([*reasons, found]))


def _case(model: Any, tokens: list[int]) -> _Case:
    long, short = _LENGTHS[1], _LENGTHS[0]
    prompts = [tokens[:_COMMON] + tokens[long : long + short - _COMMON], tokens[:long]]
    rest = tokens[long + short :]
    continued = [rest[row * _CONTINUED : (row + 1) * _CONTINUED] for row in range(4)]
    expected = [
        plain_logits(model, prompts[row // 2] + tail)[len(prompts[row // 2]) - 1 :]
        for row, tail in enumerate(continued)
    ]
    return _Case(prompts, torch.tensor(continued, device=model.device), torch.stack(expected))


def _shared(model: Any, case: _Case) -> float:
    """Token by token, then without the first prompt, then, from the prompts again, all at once."""
    prefilled = shared_prefix.prefill(model, case.prompts, _COMMON)
    found = [prefilled.logits.repeat_interleave(2, dim=0)]
    kept = torch.tensor([2, 3], device=model.device)
    with shared_prefix.attending(model):
        decoder = shared_prefix.Decoder(model, prefilled, 2, _CONTINUED)
        found += [decoder.step(case.continued[:, at]) for at in range(_CONTINUED - 1)]
        decoder.select(shared_prefix.Kept(kept[:1] - 1, kept))
        last = decoder.step(case.continued[kept, -1])
        decoder = shared_prefix.Decoder(model, prefilled, 2, _CONTINUED)
        at_once = decoder.step(case.continued, every_position=True)
    return max(
        difference(torch.stack(found, dim=1), case.expected[:, :-1]),
        difference(last, case.expected[kept, -1]),
        difference(at_once, case.expected[:, 1:]),
    )


class _Given:
    """Draws what is given, and keeps the logits that it was given for it."""

    def __init__(self, continued: torch.Tensor) -> None:
        self._tokens: Iterator[torch.Tensor] = iter(continued.T)
        self.seen: list[torch.Tensor] = []

    def draw(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        self.seen.append(logits.clone())
        return next(self._tokens)

    def finished(self) -> bool:
        return False


def _batched(model: Any, case: _Case) -> float:
    prompts = [prompt for prompt in case.prompts for _ in range(2)]
    given = _Given(case.continued)
    plain.generate(model, prompts, given, _CONTINUED, pad=prompts[0][0])
    sequences = [[*p, *t] for p, t in zip(prompts, case.continued.tolist(), strict=True)]
    scored = plain.score(model, sequences, [len(p) for p in prompts], together=True)
    return max(
        difference(torch.stack(given.seen, dim=1), case.expected[:, :-1]),
        difference(torch.stack(list(scored)), case.expected),
    )
