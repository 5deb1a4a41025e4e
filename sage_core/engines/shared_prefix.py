"""Attention over prompts that many rows share.

``transformers`` gives every candidate its own copy of the prompt's keys and values and appends to
them at each step. Here keys and values lie in levels, each computed once: what all prompts of a
batch start with (1 prompt), the prompts themselves (P), and what each of the R = P * n candidates
has generated. The attention over all levels is one softmax, and for grouped-query models no key is
repeated. On a CPU with 64 candidates this is three to five times as fast as ``generate``.

It holds for models that pass all of their attention through the function that they are given; the
self-test (:mod:`sage_core.engines.self_test`) finds the others.

Shapes: P prompts of a level, R rows, H query heads, K key heads, G = H / K, L positions of a
level, T new tokens, S tokens of the row's own so far, D head size (of values it may be another).
"""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache, DynamicLayer

from sage_core.engines.attention import replaced_attention
from sage_core.errors import EngineError

ATTENTION = "sage_shared_prefix"
_MIN_COMMON = 32  # tokens; below that, reading them once costs more than it saves


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
        self.keys = self._buffer(key_states)
        self.values = self._buffer(value_states)
        self.is_initialized = True

    def _buffer(self, states: torch.Tensor) -> torch.Tensor:
        rows, heads, _, size = states.shape  # values may be of another size than keys
        return states.new_empty(rows, heads, self.capacity, size)

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


def supports(model: Any) -> bool:
    """Whether the cache of a model has layers of full attention only. A few tokens of a self-test
    do not show a window."""
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def attending(model: Any) -> AbstractContextManager[None]:
    """The model with :func:`attend` as its attention, for a while.

    Raises:
        EngineError: it takes none from outside.
    """
    return replaced_attention(model, ATTENTION)


def common_prefix(prompts: list[list[int]]) -> int:
    """How many tokens all prompts start with, if it is worth reading them apart; at least one
    token of each prompt is left over."""
    shortest = min(len(prompt) for prompt in prompts)
    common = min(len(os.path.commonprefix(prompts)), shortest - 1)
    return common if len(prompts) > 1 and common >= _MIN_COMMON else 0


@dataclass
class Kept:
    """What stays after finished prompts left the batch: indices of prompts and of rows."""

    prompts: torch.Tensor
    rows: torch.Tensor


@dataclass
class Prefilled:
    """Prompts that were read: their cache, right-padded, how many tokens they have in common, the
    lengths (P,) of what follows those, and the logits (P, V) after each prompt."""

    cache: Any
    common: int
    lengths: torch.Tensor
    logits: torch.Tensor


def prefill(model: Any, prompts: list[list[int]], common: int) -> Prefilled:
    """Read the prompts. The ``common`` tokens that all of them start with are read once."""
    device = model.device
    rest = [prompt[common:] for prompt in prompts]
    lengths = torch.tensor([len(tokens) for tokens in rest], device=device)
    longest = int(lengths.max())
    padded = torch.tensor(
        [tokens + [0] * (longest - len(tokens)) for tokens in rest], device=device
    )
    cache: Any = DynamicCache(config=model.config)
    if common:
        shared = torch.tensor([prompts[0][:common]], device=device)
        model(shared, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(len(prompts))
    # Padding is on the right, so the causal mask alone keeps it out of every prompt.
    ends = lengths - 1
    kept = torch.unique(ends)
    output = model(padded, past_key_values=cache, use_cache=True, logits_to_keep=kept)
    rows = torch.arange(len(rest), device=device)
    logits = output.logits[rows, torch.searchsorted(kept, ends)].float()
    return Prefilled(cache, common, lengths, logits)


class Decoder:
    """The model past its prompts, ``n`` rows each: feeds tokens, keeps the cache. To be used while
    :func:`attending`."""

    def __init__(self, model: Any, prefilled: Prefilled, n: int, capacity: int) -> None:
        self._model = model
        self._next = (prefilled.common + prefilled.lengths).repeat_interleave(n)
        self._levels = levels(prefilled.cache, prefilled.common, prefilled.lengths)
        self._cache = SuffixCache(len(prefilled.cache.layers), capacity)

    def step(self, tokens: torch.Tensor, *, every_position: bool = False) -> torch.Tensor:
        """Feed (R,) or (R, T) tokens; returns float32 logits (R, V), or (R, T, V)."""
        tokens = tokens if tokens.dim() == 2 else tokens[:, None]
        positions = self._next[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
        self._next = self._next + tokens.shape[1]
        output = self._model(
            input_ids=tokens,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=0 if every_position else 1,
            levels=self._levels,
        )
        logits: torch.Tensor = output.logits.float()
        return logits if every_position else logits[:, -1]

    def select(self, kept: Kept) -> None:
        """Go on with these prompts and rows only."""
        self._levels = [*self._levels[:-1], self._levels[-1].select(kept.prompts)]
        self._cache.select(kept.rows)
        self._next = self._next[kept.rows]


def attend(
    module: Any,
    query: torch.Tensor,  # (R, H, T, D)
    key: torch.Tensor,  # (R, K, S, D), the rows' own keys, the T new ones included
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    *,
    levels: Sequence[Level] | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of new tokens over the shared levels and over the row's own tokens.

    Each level's number of prompts divides R; consecutive rows belong to the same prompt.

    Raises:
        EngineError: the model asks for what this does not do, or does not pass the levels on.
    """
    if levels is None or sliding_window or kwargs.get("softcap"):
        raise EngineError(f"the attention of {type(module).__name__} cannot be shared")
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
    output = output.reshape(rows, query_heads, new, value.shape[-1])
    return output.transpose(1, 2).contiguous(), None


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
