"""How TRL's trainers score tokens: without padding and with logits only where a token is scored, or
by the model's own forward pass.

TRL's trainers hand a padded batch (B, T) to the model and score its tokens. Here the same call
runs the model on one row of the N tokens that are there: a sequence attends to itself only, and of
a preference pair the prompt is computed once, for both replies. Logits, (S, V), are made for the S
scored tokens, in parts, with their gradient at once, so that they are never kept. Models that this
would change (:mod:`sage_core.training.self_test`) are padded, and score by their own logits: TRL's
output layer knows some families' scaling only.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache, wraps
from types import MethodType
from typing import Any

import torch
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.utils import ModelOutput

from sage_core.engines.attention import replaced_attention
from sage_core.errors import EngineError
from sage_core.training.method import NOT_SCORED

ATTENTION = "sage_packed"
_SCORED_TOGETHER = 256  # tokens; bounds the memory of the logits


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
        source: (N,) the place of each token in the flattened batch.
        positions: (N,) its position in its own sequence.
        index: (B, T) the places of the batch's tokens in the row; 0 for padding.
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
            """Add the tokens of ``row`` from ``first`` on; returns their places."""
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
class ScoredOutput(ModelOutput):  # type: ignore[misc]
    """What TRL's trainers read of its own ``FusedCausalLMOutput``, each (B, T - 1), and the logits
    (S, V) if they were asked for."""

    log_probs: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    mean_logits: torch.Tensor | None = None
    is_top1: torch.Tensor | None = None
    label_mask: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    aux_loss: torch.Tensor | None = None  # none: see router_aux_loss_coef


def score_here(causal: Any, *, packed: bool) -> None:
    """Make ``model(..., labels=labels, fused_lm_head=True)``, which TRL's trainers call, run
    :func:`score_packed` or :func:`score_padded`; ``causal`` is the model without its adapters'
    wrapper.

    The call takes two more arguments: ``shared``, see :meth:`Layout.of`, when packed, and
    ``with_logits``, for the logits (S, V) of the scored tokens as well. It returns (B, T - 1)
    log-probabilities of the tokens from the second on, zero where the label is -100.
    """
    if packed:
        causal.set_attn_implementation(ATTENTION)
    own = causal.forward

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
            return own(input_ids, attention_mask, labels=labels, **kwargs)
        assert attention_mask is not None
        assert labels is not None
        kwargs = {name: value for name, value in kwargs.items() if name != "inputs_embeds"}
        kwargs["use_cache"] = False
        batch = (input_ids, attention_mask, labels)
        if packed:
            return score_packed(self, *batch, shared, with_logits=with_logits, **kwargs)
        return score_padded(own, *batch, with_logits=with_logits, **kwargs)

    causal.forward = MethodType(forward, causal)


def score_packed(
    causal: Any,
    input_ids: torch.Tensor,  # (B, T)
    attention_mask: torch.Tensor,
    labels: torch.Tensor,
    shared: torch.Tensor | None,
    *,
    with_logits: bool = False,
    **kwargs: Any,
) -> ScoredOutput:
    """Score a batch in one row without padding; the model has to be :func:`attending`."""
    layout = Layout.of(attention_mask, shared)
    hidden = causal.base_model(
        input_ids=input_ids.flatten()[layout.source][None],
        position_ids=layout.positions[None],
        runs=layout.runs,
        **kwargs,
    ).last_hidden_state[0]
    targets = labels[:, 1:]
    mask = targets != NOT_SCORED
    head = causal.get_output_embeddings()
    weight, bias = _whole(head.weight), getattr(head, "bias", None)
    if bias is not None:
        bias = _whole(bias)
    scored = hidden[layout.index[:, :-1][mask]].to(weight.dtype)
    log_probs, entropy, mean_logits, top1 = _log_probs(scored, weight, bias, targets[mask])
    return _output(
        mask, log_probs, entropy, mean_logits, top1,
        linear(scored, weight, bias) if with_logits else None,
    )  # fmt: skip


def score_padded(
    forward: Callable[..., Any],
    input_ids: torch.Tensor,  # (B, T)
    attention_mask: torch.Tensor,
    labels: torch.Tensor,
    *,
    with_logits: bool = False,
    **kwargs: Any,
) -> ScoredOutput:
    """Score a padded batch by the model's own ``forward`` pass and logits."""
    logits = forward(input_ids=input_ids, attention_mask=attention_mask, **kwargs).logits
    targets = labels[:, 1:]
    mask = targets != NOT_SCORED
    scored = logits[:, :-1][mask]
    picked = targets[mask].to(scored.device)
    distribution = scored.float().log_softmax(-1)
    with torch.no_grad():
        entropy = -(distribution.exp() * distribution).sum(-1)
        mean_logits, top1 = scored.float().mean(-1), scored.argmax(-1) == picked
    log_probs = distribution.gather(1, picked[:, None])[:, 0]
    return _output(mask, log_probs, entropy, mean_logits, top1, scored if with_logits else None)


def _output(
    mask: torch.Tensor,
    log_probs: torch.Tensor,
    entropy: torch.Tensor,
    mean_logits: torch.Tensor,
    top1: torch.Tensor,
    logits: torch.Tensor | None,
) -> ScoredOutput:
    def spread(values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(mask.shape).masked_scatter(mask, values)

    return ScoredOutput(
        log_probs=spread(log_probs),
        entropy=spread(entropy),
        mean_logits=spread(mean_logits),
        is_top1=spread(top1),
        label_mask=mask,
        logits=logits,
    )


def attending(causal: Any) -> AbstractContextManager[None]:
    """The model with :func:`attend` as its attention, for a while.

    Raises:
        EngineError: it takes none from outside.
    """
    return replaced_attention(causal, ATTENTION)


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
    (weight (V, E), bias (V,) or None), with the entropy (nats), the mean logit and whether the
    label is the likeliest token.

    The gradient of a log-probability by its hidden state is (onehot - softmax) @ weight: known with
    the logits, and all of it that has to be kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        precision = torch.promote_types(hidden.dtype, torch.float32)
        scores = hidden.new_empty(3, len(hidden), dtype=precision)
        top1 = torch.empty_like(labels, dtype=torch.bool)
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), _SCORED_TOGETHER):
            part = slice(start, start + _SCORED_TOGETHER)
            picked = labels[part, None]
            logits = linear(hidden[part], weight, bias).to(precision)
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
    def backward(ctx: Any, by_log_probs: torch.Tensor, *unused: Any) -> tuple[Any, ...]:
        (gradient,) = ctx.saved_tensors
        return by_log_probs[:, None].to(gradient.dtype) * gradient, None, None, None


_log_probs: Callable[..., tuple[torch.Tensor, ...]] = _LogProbs.apply


def _whole(weight: torch.Tensor) -> torch.Tensor:
    """A weight or bias, gathered where FSDP has spread it."""
    gather = getattr(weight, "full_tensor", None)
    return gather() if gather else weight
