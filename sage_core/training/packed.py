"""Forward passes without padding, and with logits only where a token is scored.

TRL's trainers hand a padded batch (B, T) to the model and score its tokens. Here the same call
runs the model on one row of the N tokens that are there: a sequence attends to itself only, and of
a preference pair the prompt is computed once, for both replies. Logits, (S, V), are made for the S
scored tokens, in parts, with their gradient at once, so that they are never kept.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from types import MethodType
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from trl.trainer.utils import FusedCausalLMOutput

from sage_core.errors import EngineError

ATTENTION = "sage_packed"
_SCORED_TOGETHER = 256  # tokens; bounds the memory of the logits
_PACKED_LAYERS = {"full_attention", "sliding_attention"}
_CHANGES_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier",
                   "lm_head_multiplier", "attn_logit_softcapping")  # fmt: skip


@dataclass(frozen=True)
class Run:
    """Tokens [start, stop) of the row, each of which attends to those before it and to all of
    ``context``, an earlier part of the row."""

    start: int
    stop: int
    context: tuple[int, int] | None = None

    def mask(self, window: int | None, device: torch.device) -> torch.Tensor | None:
        """Which keys (context, then the run's own) each query attends to, (queries, keys); None
        stands for the causal mask of a run without context."""
        before = self.context[1] - self.context[0] if self.context else 0
        keys = before + self.stop - self.start
        if not before and (window is None or keys <= window):
            return None
        return _mask(before, keys, window, device)


@lru_cache(64)  # every layer asks for the same ones
def _mask(before: int, keys: int, window: int | None, device: torch.device) -> torch.Tensor:
    key = torch.arange(keys, device=device)
    query = key[before:, None]
    allowed = key <= query
    return allowed if window is None else allowed & (key > query - window)


@dataclass(frozen=True)
class Layout:
    """A padded batch (B, T) as one row of N tokens.

    Attributes:
        runs: what covers the row, from left to right.
        source: (N,) where each token stands in the flattened batch.
        positions: (N,) its position in its own sequence.
        index: (B, T) where the tokens of the batch stand in the row; 0 for padding.
    """

    runs: list[Run]
    source: torch.Tensor
    positions: torch.Tensor
    index: torch.Tensor

    @classmethod
    def of(cls, attention_mask: torch.Tensor, shared: torch.Tensor | None = None) -> "Layout":
        """The layout of right-padded sequences; ``shared`` (B / 2,) says with how many tokens
        sequence i and sequence B / 2 + i begin alike."""
        lengths = attention_mask.sum(1).tolist()
        rows, width = attention_mask.shape
        runs: list[Run] = []
        source: list[torch.Tensor] = []
        positions: list[torch.Tensor] = []
        index = torch.zeros(rows, width, dtype=torch.long)
        used = 0

        def place(row: int, first: int, context: tuple[int, int] | None) -> tuple[int, int]:
            """Add the tokens of ``row`` from ``first`` on; returns where they now stand."""
            nonlocal used
            at = torch.arange(first, lengths[row])
            runs.append(Run(used, used + len(at), context))
            source.append(row * width + at)
            positions.append(at)
            index[row, at] = used + torch.arange(len(at))
            used += len(at)
            return used - len(at), used

        if shared is None:
            for row in range(rows):
                place(row, 0, None)
        else:
            for row, common in enumerate(shared.tolist()):
                other = rows // 2 + row
                start, _ = place(row, 0, None)
                index[other, :common] = start + torch.arange(common)
                place(other, common, (start, start + common))
        device = attention_mask.device
        return cls(
            runs, torch.cat(source).to(device), torch.cat(positions).to(device), index.to(device)
        )


@dataclass
class PackedOutput(FusedCausalLMOutput):  # type: ignore[misc]
    """What TRL's trainers expect, and the logits (S, V) if they were asked for."""

    logits: torch.Tensor | None = None


def packs(config: Any) -> bool:
    """Whether a model of this transformers configuration can be run packed."""
    text = config.get_text_config()
    layers = getattr(text, "layer_types", None) or ["full_attention"]
    plain = all(getattr(text, name, None) in (None, 1.0) for name in _CHANGES_LOGITS)
    return plain and set(layers) <= _PACKED_LAYERS


def pack(causal: Any) -> None:
    """Make ``model(..., labels=labels, fused_lm_head=True)``, which TRL's trainers call, run
    packed; ``causal`` is the model without its adapters' wrapper, for which :func:`packs` holds.

    The call takes two more arguments: ``shared``, see :meth:`Layout.of`, and ``with_logits``, for
    the logits (S, V) of the scored tokens as well. It returns (B, T - 1) log-probabilities of the
    tokens from the second on, zero where the label is -100.
    """
    if causal.config._attn_implementation == ATTENTION:
        return
    causal.set_attn_implementation(ATTENTION)
    unpacked = causal.forward

    @wraps(type(causal).forward)
    def forward(
        self: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        labels: torch.Tensor | None = None,
        fused_lm_head: bool = False,
        shared: torch.Tensor | None = None,
        with_logits: bool = False,
        **kwargs: Any,
    ) -> Any:
        if not fused_lm_head:
            return unpacked(input_ids, attention_mask, labels=labels, **kwargs)
        assert attention_mask is not None
        assert labels is not None
        layout = Layout.of(attention_mask, shared)
        kwargs["use_cache"] = False
        hidden = self.base_model(
            input_ids=input_ids.flatten()[layout.source][None],
            position_ids=layout.positions[None],
            runs=layout.runs,
            **{name: value for name, value in kwargs.items() if name != "inputs_embeds"},
        ).last_hidden_state[0]
        targets = labels[:, 1:]
        mask = targets != -100
        weight = _whole(self.get_output_embeddings().weight)
        scored = hidden[layout.index[:, :-1][mask]].to(weight.dtype)
        log_probs, entropy, mean_logits, top1 = _log_probs(scored, weight, targets[mask])

        def spread(values: torch.Tensor) -> torch.Tensor:
            return values.new_zeros(mask.shape).masked_scatter(mask, values)

        return PackedOutput(
            log_probs=spread(log_probs),
            entropy=spread(entropy),
            mean_logits=spread(mean_logits),
            is_top1=spread(top1),
            label_mask=mask,
            logits=scored @ weight.T if with_logits else None,
        )

    causal.forward = MethodType(forward, causal)


def attend(
    module: Any,
    query: torch.Tensor,  # (1, H, N, D)
    key: torch.Tensor,  # (1, K, N, D)
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    *,
    runs: Sequence[Run] | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of each run to itself and its context."""
    if runs is None or kwargs.get("s_aux") is not None or kwargs.get("softcap") is not None:
        raise EngineError(
            f"the attention of {type(module).__name__} cannot be packed; set training.packing=false"
        )
    outputs = []
    for run in runs:
        own = slice(run.start, run.stop)
        keys, values = key[:, :, own], value[:, :, own]
        if run.context:
            context = slice(*run.context)
            keys = torch.cat([key[:, :, context], keys], dim=2)
            values = torch.cat([value[:, :, context], values], dim=2)
        mask = run.mask(sliding_window, query.device)
        outputs.append(
            scaled_dot_product_attention(
                query[:, :, own],
                keys,
                values,
                attn_mask=mask,
                is_causal=mask is None,
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=key.shape[1] != query.shape[1],
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, attend)


class _LogProbs(torch.autograd.Function):
    """Log-probabilities (S,) of labels (S,) after hidden states (S, E) under a frozen output layer
    (V, E), with the entropy (nats), the mean logit and whether the label is the likeliest token.

    The gradient of a log-probability by its hidden state is (onehot - softmax) @ weight: known with
    the logits, and all of it that has to be kept.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        precision = torch.promote_types(hidden.dtype, torch.float32)
        scores = hidden.new_empty(3, len(hidden), dtype=precision)
        top1 = torch.empty_like(labels, dtype=torch.bool)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), _SCORED_TOGETHER):
            part = slice(start, start + _SCORED_TOGETHER)
            picked = labels[part, None]
            logits = (hidden[part] @ weight.T).to(precision)
            top1[part] = logits.argmax(-1) == labels[part]
            mean_logits = logits.mean(-1)
            log_probs = logits.log_softmax(-1)
            probabilities = log_probs.exp()
            scores[0, part] = log_probs.gather(1, picked)[:, 0]
            scores[1, part] = -(probabilities * log_probs).sum(-1)
            scores[2, part] = mean_logits
            if gradient is not None:
                ones = torch.ones_like(picked, dtype=precision)
                difference = probabilities.neg_().scatter_add_(1, picked, ones)
                gradient[part] = difference.to(weight.dtype) @ weight
        ctx.save_for_backward(gradient)
        entropy, mean = scores[1].clone(), scores[2].clone()
        ctx.mark_non_differentiable(entropy, mean, top1)
        return scores[0].clone(), entropy, mean, top1

    @staticmethod
    def backward(ctx: Any, by_log_probs: torch.Tensor, *unused: Any) -> tuple[Any, None, None]:
        (gradient,) = ctx.saved_tensors
        return by_log_probs[:, None].to(gradient.dtype) * gradient, None, None


_log_probs: Callable[..., tuple[torch.Tensor, ...]] = _LogProbs.apply


def _whole(weight: torch.Tensor) -> torch.Tensor:
    """The weight, gathered where FSDP has spread it."""
    gather = getattr(weight, "full_tensor", None)
    return gather() if gather else weight
