"""Attention over prompts that many rows share.

``transformers`` gives every candidate its own copy of the prompt's keys and values and appends to
them at each step. Here keys and values lie in levels, each computed once: what all prompts of a
batch start with (1 prompt), the prompts themselves (P), and what each of the R = P * n candidates
has generated. The attention over all levels is one softmax, and for grouped-query models no key is
repeated. On a CPU with 64 candidates this is three to five times as fast as ``generate``.

Shapes: P prompts of a level, R rows, H query heads, K key heads, G = H / K, L positions of a
level, T new tokens, S tokens of the row's own so far, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer

ATTENTION = "sage_shared_prefix"


@dataclass
class Level:
    """Keys and values of P prompts, per layer (P, K, L, D), and which positions are padding."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    padding: torch.Tensor  # (P, L), True where a position holds no token

    def select(self, prompts: torch.Tensor) -> "Level":
        """The prompts at these indices only."""
        return Level(
            [keys[prompts] for keys in self.keys],
            [values[prompts] for values in self.values],
            self.padding[prompts],
        )


def levels(cache: Cache, common: int, lengths: torch.Tensor) -> list[Level]:
    """Split a cache of P right-padded prompts into what they have in common and the rest.

    ``lengths`` (P,) counts the tokens of each prompt after the ``common`` ones.
    """
    device = lengths.device
    keys = [layer.keys for layer in cache.layers]
    values = [layer.values for layer in cache.layers]
    positions = torch.arange(keys[0].shape[2] - common, device=device)
    own = Level(
        [tensor[:, :, common:].contiguous() for tensor in keys],
        [tensor[:, :, common:].contiguous() for tensor in values],
        positions >= lengths[:, None],
    )
    if not common:
        return [own]
    first = Level(
        [tensor[:1, :, :common].contiguous() for tensor in keys],
        [tensor[:1, :, :common].contiguous() for tensor in values],
        torch.zeros(1, common, dtype=torch.bool, device=device),
    )
    return [first, own]


class _SuffixLayer(CacheLayerMixin):  # type: ignore[misc]
    """What the rows generated, in a buffer of fixed capacity, so that no step copies it."""

    is_sliding = False

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity
        self.length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        rows, heads, _, size = key_states.shape
        self.keys = key_states.new_empty(rows, heads, self.capacity, size)
        self.values = torch.empty_like(self.keys)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        end = self.length + key_states.shape[2]
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        return self.length

    def get_max_length(self) -> int:
        return self.capacity

    def select(self, rows: torch.Tensor) -> None:
        assert self.keys is not None
        assert self.values is not None
        self.keys, self.values = self.keys[rows], self.values[rows]


class SuffixCache(Cache):  # type: ignore[misc]
    """The cache of the rows' own tokens."""

    def __init__(self, layers: int, capacity: int) -> None:
        super().__init__(layers=[_SuffixLayer(capacity) for _ in range(layers)])

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows only."""
        for layer in self.layers:
            layer.select(rows)


def supports(cache: Cache) -> bool:
    """Whether the layers that a cache was made for are all full attention."""
    return bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)


def attend(
    module: Any,
    query: torch.Tensor,  # (R, H, T, D)
    key: torch.Tensor,  # (R, K, S, D), the rows' own keys, the T new ones included
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    *,
    levels: Sequence[Level],
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of new tokens over the shared levels and over the row's own tokens.

    Each level's number of prompts divides R; consecutive rows belong to the same prompt.
    """
    rows, query_heads, new, size = query.shape
    heads, own = key.shape[1], key.shape[2]
    group = query_heads // heads
    grouped = (query * scaling).reshape(rows, heads, group * new, size)

    scores = []
    for level in levels:
        keys = level.keys[module.layer_idx]
        over_level = _per_prompt(grouped, keys.shape[0]) @ keys.transpose(2, 3)
        over_level.masked_fill_(level.padding[:, None, None, :], -torch.inf)
        scores.append(_per_row(over_level, rows))
    over_own = grouped @ key.transpose(2, 3)
    if new > 1:
        ahead = torch.ones(new, own, dtype=torch.bool, device=key.device).triu(own - new + 1)
        over_own.masked_fill_(ahead.repeat(group, 1), -torch.inf)
    scores.append(over_own)

    weights = torch.cat(scores, dim=-1).softmax(-1, dtype=torch.float32).to(query.dtype)
    parts = torch.split(weights, [part.shape[-1] for part in scores], dim=-1)
    output = parts[-1] @ value
    for level, part in zip(levels, parts, strict=False):
        values = level.values[module.layer_idx]
        output += _per_row(_per_prompt(part, values.shape[0]) @ values, rows)
    return output.reshape(rows, query_heads, new, size).transpose(1, 2).contiguous(), None


def _per_prompt(tensor: torch.Tensor, prompts: int) -> torch.Tensor:
    """(R, K, G*T, X) -> (P, K, R/P*G*T, X): the rows of a prompt become its queries."""
    rows, heads, queries, size = tensor.shape
    split = tensor.reshape(prompts, rows // prompts, heads, queries, size)
    return split.transpose(1, 2).reshape(prompts, heads, rows // prompts * queries, size)


def _per_row(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """The inverse of :func:`_per_prompt`."""
    prompts, heads, queries, size = tensor.shape
    n = rows // prompts
    split = tensor.reshape(prompts, heads, n, queries // n, size)
    return split.transpose(1, 2).reshape(rows, heads, queries // n, size)


AttentionInterface.register(ATTENTION, attend)
