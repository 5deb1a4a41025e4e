"""Comparing two ways to compute the same with a model: telling a fault from rounding.

The self-tests (:mod:`sage_core.engines.self_test`, :mod:`sage_core.training.self_test`) run the
loaded model itself on a few tokens. A smaller copy of it, with fewer layers or random weights, is
no fair witness: which layers a model has, and what they do to keys and values, is decided by fields
of its configuration that differ from family to family.

Weights of up to four billion numbers are held in float32 during the test, in place, and are put
back as they were, which is exact for bfloat16 and float16. Rounding then changes logits by a
millionth to a ten-thousandth, and a fault by a thousandth at least. Larger and quantised models are
compared as they are loaded, with a tolerance for bfloat16: a leak or an ignored argument changes
logits by a tenth and more. A sound model whose rounding is worse than that takes the plain path,
which is slow and right.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch

from sage_core.errors import EngineError

_LARGEST = 4_000_000_000  # numbers: 8 GB more in float32 than in bfloat16
_TOLERANCE, _ROUNDED_TOLERANCE = 1e-3, 5e-2
_TEXT = (
    "I waited an hour for the bus again, and then it rained. That must have been cold! What did "
    "you do when it came at last?"
)


class Chosen(Protocol):
    """What a self-test found."""

    @property
    def reason(self) -> str:
        """Why it is not the fastest way; '': it is."""


Found = TypeVar("Found", bound=Chosen)
_log = logging.getLogger(__name__)
_known: dict[tuple[Any, ...], Any] = {}


def test_tokens(tokenizer: Any, count: int) -> list[int]:
    """``count`` token ids of plain text."""
    ids: list[int] = tokenizer.encode(_TEXT, add_special_tokens=False)
    return (ids * count)[:count]


@contextmanager
def in_float32(model: Any) -> Iterator[float]:
    """The model in eval mode and, if it can be, in float32; gives the relative difference from
    which on two results differ."""
    tensors = [*model.parameters(), *model.buffers()]
    quantised = getattr(model, "is_quantized", False)
    rounded = [t for t in tensors if t.is_floating_point() and t.dtype != torch.float32]
    exact = not quantised and sum(each.numel() for each in rounded) <= _LARGEST
    before = [(each, each.dtype) for each in rounded] if exact else []
    training = model.training
    model.eval()
    try:
        for tensor, _ in before:
            tensor.data = tensor.data.float()
        yield _TOLERANCE if exact else _ROUNDED_TOLERANCE
    finally:
        for tensor, dtype in before:
            tensor.data = tensor.data.to(dtype)
        model.train(training)


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest relative difference (L2) of any row (..., N), of what varies within a row: adding
    a constant to all logits changes nothing."""
    found, expected = ((each - each.mean(-1, keepdim=True)).float() for each in (found, expected))
    relative = (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-12)
    return float(relative.nan_to_num(torch.inf).max())


def agrees(what: str, compute: Callable[[], float], tolerance: float) -> str:
    """'' if ``compute`` gives a difference below the tolerance, else the reason why ``what`` cannot
    be used."""
    try:
        found = compute()
    except Exception as error:  # whatever the model's code raises
        first = (str(error).splitlines() or [""])[0]
        return f"{what} fail ({type(error).__name__}: {first[:200]})"
    return "" if found <= tolerance else f"{what} change the result by {found:.1g}"


def plain_logits(model: Any, ids: list[int]) -> torch.Tensor:
    """(T, V) float32 logits of one sequence by the model's own forward pass, without a cache.

    Raises:
        EngineError: the pass fails, or its logits are not finite.
    """
    name = type(model).__name__
    try:
        output = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
    except Exception as error:  # whatever the model's code raises
        raise EngineError(
            f"{name} fails on plain text ({type(error).__name__}: {error}); use another model.base"
        ) from error
    logits: torch.Tensor = output.logits[0].float()
    if not torch.isfinite(logits).all():
        raise EngineError(
            f"{name} gives logits that are not finite on plain text; use another model.base, or "
            "model.dtype=float32"
        )
    return logits


def once(kind: str, model: Any, find: Callable[[], Found]) -> Found:
    """What ``find`` finds, once per process for models of one class, configuration and device:
    these decide it, and weights are only its witnesses. Adapters have no part in it."""
    key = (
        kind,
        type(model),
        model.config.to_json_string(use_diff=False),
        model.config._attn_implementation,
        str(model.device),
        str(model.dtype),
    )
    if key not in _known:
        found = _known[key] = find()
        level = logging.WARNING if found.reason else logging.INFO  # slower: worth to be seen
        _log.log(level, "self-test of %s, %s: %s", type(model).__name__, kind, found)
    known: Found = _known[key]
    return known
