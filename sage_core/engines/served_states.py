"""What a server's plug-in does to the logits of replies that open with states.

Nothing here knows the server; :mod:`sage_core.engines.vllm_plugin` ties it to vLLM. As in
:mod:`sage_core.engines.drawing`, the penalty (Keskar et al. 2019) is over prompt and reply but not
in the states, where the model has to repeat the words of the format and of the user; steering comes
after it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sage_core.engines.plugin_arguments import Asked
from sage_core.engines.steerer import Row, Steerer, Vocabulary, apply
from sage_core.engines.steering import Steering


class ServedReply:
    """One reply that is being drawn; ``steerer`` is None where nothing is steered."""

    def __init__(
        self,
        asked: Asked,
        prompt: Sequence[int],
        vocabulary: Vocabulary,
        steerer: Steerer | None = None,
    ) -> None:
        self.penalty = asked.penalty
        self.steerer = steerer
        self.row = Row(asked.prefix)
        self._open_groups = asked.state_groups
        self._vocabulary = vocabulary
        self._unmarked = list(prompt) if asked.penalty != 1 else []
        self._seen: torch.Tensor | None = None

    def feed(self, tokens: Sequence[int]) -> None:
        """Go on by the tokens drawn since."""
        for token in tokens:
            text = self._vocabulary.texts[token]
            if self.steerer is not None:
                self.row.feed(text)
            self._open_groups -= text.count(b"}") if self._open_groups > 0 else 0
        if self.penalty != 1:
            self._unmarked += tokens

    def penalised(self, logits: torch.Tensor) -> torch.Tensor | None:
        """Which tokens (V,) the penalty holds for now; None in the states, or without one."""
        if self.penalty == 1 or self._open_groups > 0:
            return None
        if self._seen is None:
            self._seen = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        new = torch.tensor(self._unmarked, dtype=torch.long, device=logits.device)
        self._seen[new] = True
        self._unmarked = []
        return self._seen


class ServedStates:
    """What the plug-in knows of a model's tokenizer."""

    def __init__(self, tokenizer: Any, size: int) -> None:
        self._vocabulary = Vocabulary.of(tokenizer, size)
        self._steerers: dict[tuple[Steering, bool], Steerer] = {}

    def reply(self, asked: Asked, prompt: Sequence[int]) -> ServedReply:
        """A reply at its start.

        Raises:
            ConfigError: the tokenizer cannot write a steered value.
        """
        steerer = None
        if asked.steering:
            key = asked.steering, asked.grammar
            if key not in self._steerers:
                self._steerers[key] = Steerer(self._vocabulary, key[0], grammar=key[1])
            steerer = self._steerers[key]
        return ServedReply(asked, prompt, self._vocabulary, steerer)


def change(logits: torch.Tensor, replies: Mapping[int, ServedReply]) -> None:
    """Penalise and steer the rows of float32 ``logits`` (R, V) that ``replies`` names, in place."""
    seen = {row: reply.penalised(logits) for row, reply in replies.items()}
    masks = {row: mask for row, mask in seen.items() if mask is not None}
    if masks:
        rows = torch.tensor(list(masks), device=logits.device)
        penalty = torch.tensor([replies[row].penalty for row in masks], device=logits.device)
        scores, penalty = logits[rows], penalty[:, None]
        penalised = torch.where(scores > 0, scores / penalty, scores * penalty)
        logits[rows] = torch.where(torch.stack(list(masks.values())), penalised, scores)
    steered = {row: reply for row, reply in replies.items() if reply.steerer is not None}
    if steered:
        edits: list[Any] = [None] * len(logits)
        for row, reply in steered.items():
            assert reply.steerer is not None
            edits[row] = reply.steerer.edit(reply.row)
        apply(logits, edits)
