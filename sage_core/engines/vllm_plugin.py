"""SAGE inside a vLLM server: a logits processor for each of vLLM's two interfaces, loaded in the
server's process from its own environment, so this imports nothing that only ours has.

Requests ask through ``vllm_xargs`` (:class:`sage_core.engines.plugin_arguments.Asked`).
"""

from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate
from vllm.v1.sample.logits_processor import LogitsProcessor as V1LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as V2LogitsProcessor

from sage_core.engines.plugin_arguments import Asked
from sage_core.engines.served_states import ServedReply, ServedStates, change
from sage_core.errors import ConfigError


class StatesV1(V1LogitsProcessor):  # type: ignore[misc]
    """For the V1 model runner, which the CPU build uses."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raises ValueError for arguments that cannot be read."""
        _asked(sampling_params)

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._states = _states(vllm_config)
        self._replies: dict[int, _Followed] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self._replies, batch_update, self._new)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if self._replies:
            change(logits, {row: followed.now() for row, followed in self._replies.items()})
        return logits

    def _new(self, params: Any, prompt: list[int] | None, drawn: list[int]) -> "_Followed | None":
        asked = _asked(params)
        return _Followed(self._states.reply(asked, prompt or ()), drawn) if asked else None


class StatesV2(V2LogitsProcessor):  # type: ignore[misc]
    """For Model Runner V2, the default on GPUs."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raises ValueError for arguments that cannot be read."""
        _asked(sampling_params)

    def __init__(self, vllm_config: Any, req_states: LogitsProcRequestState) -> None:
        self._states = _states(vllm_config)
        self._requests = req_states
        self._asked: dict[int, Asked] = {}
        self._replies: dict[int, tuple[ServedReply, int]] = {}  # and the tokens that it has read

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        self._replies.pop(req_idx, None)  # of the slot's last request
        asked = _asked(sampling_params)
        self._asked[req_idx] = asked
        return bool(asked)

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        slots = [int(slot) for slot in ctx.idx_mapping_np]
        rows = {row: slot for row, slot in enumerate(slots) if self._asked.get(slot)}
        if rows:
            change(logits, {row: self._now(slot) for row, slot in rows.items()})
        return logits

    def _now(self, slot: int) -> ServedReply:
        """The slot's reply with all its tokens."""
        tokens = self._requests.all_token_ids.gpu[slot]
        length = int(self._requests.total_len.gpu[slot])
        if slot not in self._replies:
            start = int(self._requests.prompt_len.np[slot])
            prompt = tokens[:start].tolist()
            self._replies[slot] = self._states.reply(self._asked[slot], prompt), start
        reply, read = self._replies[slot]
        reply.feed(tokens[read:length].tolist())
        self._replies[slot] = reply, length
        return reply


class _Followed:
    """A reply and the list that the server appends its tokens to."""

    def __init__(self, reply: ServedReply, drawn: list[int]) -> None:
        self._reply, self._drawn, self._read = reply, drawn, 0

    def now(self) -> ServedReply:
        new = self._drawn[self._read :]
        self._read += len(new)
        self._reply.feed(new)
        return self._reply


def _asked(params: Any) -> Asked:
    try:
        return Asked.read(params.extra_args)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def _states(vllm_config: Any) -> ServedStates:
    from transformers import AutoTokenizer

    model = vllm_config.model_config
    tokenizer = AutoTokenizer.from_pretrained(model.tokenizer, trust_remote_code=False)
    return ServedStates(tokenizer, model.get_vocab_size())
