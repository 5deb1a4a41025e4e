"""The plain path: transformers' own ``generate`` and forward pass, for models whose prompts cannot
be shared (:mod:`sage_core.engines.self_test`).

Tokens are drawn by us: within ``generate``, our drawing takes the place of a logits processor that
leaves one token possible. Prompts are padded on the left, as ``generate`` wants them; sequences to
be scored on the right, where no causal model can see the padding.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

_SCORED_TOGETHER = 2048  # tokens of a pass, padding included; bounds the memory of its logits


class Draws(Protocol):
    """What draws the tokens of a batch of R rows."""

    def draw(self, logits: torch.Tensor, step: int) -> torch.Tensor:
        """The next token of every row (R,) from float32 logits (R, V)."""
        ...

    def finished(self) -> bool:
        """Whether all rows have ended."""
        ...


def generate(
    model: Any, prompts: Sequence[Sequence[int]], draws: Draws, budget: int, pad: int
) -> None:
    """Continue R prompts by ``budget`` tokens at most, all in one batch."""
    from transformers import GenerationConfig

    device = model.device
    longest = max(len(prompt) for prompt in prompts)
    padding = [longest - len(prompt) for prompt in prompts]
    ids = [[pad] * short + list(prompt) for short, prompt in zip(padding, prompts, strict=True)]
    mask = torch.arange(longest, device=device) >= torch.tensor(padding, device=device)[:, None]
    steps = iter(range(budget))

    def one_left(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        tokens = draws.draw(scores, next(steps))
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)

    def ended(input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((len(ids),), draws.finished(), device=input_ids.device)

    with _defaults(model, GenerationConfig(pad_token_id=pad)):
        model.generate(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=mask.long(),
            do_sample=False,
            max_new_tokens=budget,
            logits_processor=[one_left],
            stopping_criteria=[ended],
        )


def score(
    model: Any, sequences: Sequence[Sequence[int]], starts: Sequence[int], *, together: bool
) -> Iterator[torch.Tensor]:
    """For each sequence its float32 log-probabilities (T - start + 1, V): at each place from the
    one before ``start`` (at least 1) on, those of the next token.

    Args:
        together: several sequences in one pass, padded.
    """
    device = model.device
    at = 0
    while at < len(sequences):
        end, longest = at + 1, len(sequences[at])
        while together and end < len(sequences):
            longest = max(longest, len(sequences[end]))
            if longest * (end + 1 - at) > _SCORED_TOGETHER:
                break
            end += 1
        part = sequences[at:end]
        longest = max(len(each) for each in part)
        ids = torch.tensor([[*each, *[0] * (longest - len(each))] for each in part], device=device)
        lengths = torch.tensor([len(each) for each in part], device=device)
        mask = (torch.arange(longest, device=device) < lengths[:, None]).long()
        padded = {"attention_mask": mask} if len(part) > 1 else {}
        logits = model(input_ids=ids, **padded, use_cache=False).logits
        for row, (each, start) in enumerate(zip(part, starts[at:end], strict=True)):
            yield logits[row, start - 1 : len(each)].float().log_softmax(-1)
        at = end


@contextmanager
def _defaults(model: Any, config: Any) -> Iterator[None]:
    """The model without defaults of its own for ``generate``, which would change its logits."""
    own, model.generation_config = model.generation_config, config
    try:
        yield
    finally:
        model.generation_config = own
