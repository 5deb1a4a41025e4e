"""Whether a loaded model is trained packed: only if that gives the logits of the replies, and the
gradient by the embeddings of all tokens, that a padded batch gives by the model's own forward pass.

The batch holds two pairs that share their prompts, so it covers both ways that sequences lie in a
row (:class:`sage_core.training.packed.Layout`), and a leak from any of them to another shows in
both. The gradient is taken by the embeddings, so adapters, which change nothing yet or little, have
no part in it. Sliding windows are narrowed to a few tokens meanwhile, so that the test sees them.
What it cannot see is refused beforehand: layers that are neither full nor sliding attention, such
as chunked ones, which agree on a few tokens, and windows that it cannot narrow.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch

from sage_core.config.training import TrainingConfig
from sage_core.engines.comparing import agrees, difference, in_float32, once, test_tokens
from sage_core.training.method import NOT_SCORED, Batch, padded
from sage_core.training.packed import (
    Layout,
    ScoredOutput,
    attending,
    score_packed,
    score_padded,
)

_LAYERS = {"full_attention", "sliding_attention"}
_WINDOW = 3  # tokens
_PAIRS = ((5, 3, 4), (3, 6, 2))  # tokens of a prompt and of its two replies


@dataclass(frozen=True)
class Passes:
    """How training scores tokens, and why not packed."""

    packed: bool
    reason: str = ""

    def __str__(self) -> str:
        return "packed" if self.packed else f"padded ({self.reason})"


def passes_of(causal: Any, tokenizer: Any, training: TrainingConfig) -> Passes:
    """How to train a model, given without its adapters' wrapper: found once per process for models
    of one class and configuration."""
    if not training.packing:
        return Passes(False, "training.packing=false")
    tokens = test_tokens(tokenizer, sum(sum(each) for each in _PAIRS))
    return once("training", causal, partial(_find, causal, tokens))


def _find(causal: Any, tokens: list[int]) -> Passes:
    text = causal.config.get_text_config()
    layers = set(getattr(text, "layer_types", None) or ())
    if unknown := sorted(map(str, layers - _LAYERS)):
        return Passes(False, f"layers of {', '.join(unknown)}")
    with in_float32(causal) as tolerance, _narrow_windows(causal) as narrowed:
        if "sliding_attention" in layers and not narrowed:
            return Passes(False, "sliding windows that the self-test cannot see")
        reason = agrees("packed sequences", partial(_difference, causal, tokens), tolerance)
    return Passes(not reason, reason)


def _difference(causal: Any, tokens: list[int]) -> float:
    batch, shared = _batch(tokens, causal.device)
    call: dict[str, Any] = {**batch, "use_cache": False, "with_logits": True}
    expected, gradient = _with_gradient(causal, partial(score_padded, causal.forward, **call))
    with attending(causal):
        packed = partial(score_packed, causal, shared=shared, **call)
        found, in_row = _with_gradient(causal, packed)
    layout = Layout.of(batch["attention_mask"], shared)
    there = batch["attention_mask"].bool()
    summed = torch.zeros_like(in_row[0]).index_add_(0, layout.index[there], gradient[there])
    by_gradient = float((in_row[0] - summed).norm() / summed.norm())
    return max(difference(found, expected), by_gradient)


@torch.enable_grad()
def _with_gradient(
    causal: Any, score: Callable[[], ScoredOutput]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits (S, V), and the gradient of the weighted log-probabilities by the embeddings."""
    seen: list[torch.Tensor] = []

    def watch(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1]

    hook = causal.get_input_embeddings().register_forward_hook(watch)
    try:
        output = score()
    finally:
        hook.remove()
    assert output.log_probs is not None
    assert output.logits is not None
    weights = 1 + torch.arange(output.log_probs.numel(), device=causal.device) % 5
    loss = (output.log_probs.flatten() * weights).sum()
    return output.logits.detach(), torch.autograd.grad(loss, seen[:1])[0].float()


def _batch(tokens: list[int], device: torch.device) -> tuple[Batch, torch.Tensor]:
    """Two pairs whose replies are scored, and the tokens that each pair's rows begin with."""
    rest = iter(tokens)
    chosen: list[tuple[list[int], list[int]]] = []
    rejected: list[tuple[list[int], list[int]]] = []
    for prompt, *replies in _PAIRS:
        said = list(islice(rest, prompt))
        for side, reply in zip((chosen, rejected), replies, strict=True):
            side.append((said, list(islice(rest, reply))))
    rows = [
        {
            "input_ids": prompt + reply,
            "labels": [NOT_SCORED] * len(prompt) + reply,
        }
        for prompt, reply in chosen + rejected
    ]
    batch = padded(rows, input_ids=tokens[0], labels=NOT_SCORED)
    shared = torch.tensor([prompt for prompt, *_ in _PAIRS])
    return {name: each.to(device) for name, each in batch.items()}, shared


@contextmanager
def _narrow_windows(causal: Any) -> Iterator[bool]:
    """Sliding windows of a few tokens, in every layer and configuration that has one; gives whether
    there is any."""
    there = (causal.config.get_text_config(), *causal.modules())
    configs = (getattr(each, "config", None) for each in causal.modules())
    found = {id(each): each for each in (*there, *configs) if isinstance(_window(each), int)}
    before = [(each, _window(each)) for each in found.values()]
    try:
        for holder, _ in before:
            holder.sliding_window = _WINDOW
        yield bool(before)
    finally:
        for holder, window in before:
            holder.sliding_window = window


def _window(holder: Any) -> Any:
    return getattr(holder, "sliding_window", None)
