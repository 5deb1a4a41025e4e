"""What the vLLM server draws tokens with, besides its own: loaded in its process, from its own
environment, so it imports nothing that only ours has.

This is vLLM's V1 interface for logits processors, which the CPU build uses, and the GPU build with
VLLM_USE_V2_MODEL_RUNNER=0. Requests ask through ``vllm_xargs``: ``sage_penalty`` (a number from 1)
and ``sage_state_groups`` (how many groups of states the reply opens with).
"""

from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from sage_core.engines.state_penalty import Penalised, count_closing_braces, penalise


class StatePenalty(LogitsProcessor):  # type: ignore[misc]
    """The repetition penalty outside the states."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raises ValueError for a penalty that is no number from 1."""
        penalty = (sampling_params.extra_args or {}).get("sage_penalty", 1.0)
        if not isinstance(penalty, int | float) or not 1 <= penalty < float("inf"):
            raise ValueError(f"sage_penalty = {penalty!r} is no number from 1")

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        from transformers import AutoTokenizer

        model = vllm_config.model_config
        tokenizer = AutoTokenizer.from_pretrained(model.tokenizer)
        texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
        self._closing_braces = count_closing_braces(texts, model.get_vocab_size())
        self._replies: dict[int, Penalised] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self._replies, batch_update, self._new)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if self._replies:
            penalise(logits, self._replies, self._closing_braces)
        return logits

    @staticmethod
    def _new(params: Any, prompt: list[int] | None, reply: list[int]) -> Penalised | None:
        asked = params.extra_args or {}
        if asked.get("sage_penalty", 1.0) == 1:
            return None
        return Penalised(
            float(asked["sage_penalty"]),
            int(asked.get("sage_state_groups", 0)),
            prompt or (),
            reply,
        )
