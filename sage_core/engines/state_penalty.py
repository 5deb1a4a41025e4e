"""The repetition penalty of a reply that opens with states, for a server that draws the tokens.

As in :mod:`sage_core.engines.drawing`, the penalty (Keskar et al. 2019) is over prompt and reply
but not in the states, where the model has to repeat the words of the format and of the user.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch


@dataclass
class Penalised:
    """One reply that is being drawn.

    Attributes:
        penalty: at least 1.
        open_groups: state groups that are still to be closed; until then nothing is penalised.
        prompt: its token ids.
        reply: its token ids so far; the server appends to this very list.
    """

    penalty: float
    open_groups: int
    prompt: Sequence[int]
    reply: Sequence[int]
    _read: int = 0
    _seen: torch.Tensor | None = field(default=None, repr=False)

    def seen(self, logits: torch.Tensor, closing_braces: Sequence[int]) -> torch.Tensor | None:
        """Which tokens (V,) are penalised now; None in the states."""
        new = list(self.reply[self._read :])
        self._read += len(new)
        if self._seen is None:
            self._seen = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
            self._mark(self.prompt)
        self._mark(new)
        if self.open_groups > 0:
            self.open_groups -= sum(closing_braces[token] for token in new)
        return self._seen if self.open_groups <= 0 else None

    def _mark(self, tokens: Sequence[int]) -> None:
        assert self._seen is not None
        index = torch.tensor(list(tokens), dtype=torch.long, device=self._seen.device)
        self._seen[index] = True


def penalise(
    logits: torch.Tensor, replies: dict[int, Penalised], closing_braces: Sequence[int]
) -> None:
    """Penalise the rows of float32 ``logits`` (R, V) that ``replies`` names, in place."""
    seen = {row: reply.seen(logits, closing_braces) for row, reply in replies.items()}
    masks = {row: mask for row, mask in seen.items() if mask is not None}
    if not masks:
        return
    rows = torch.tensor(list(masks), device=logits.device)
    penalty = torch.tensor([replies[row].penalty for row in masks], device=logits.device)[:, None]
    scores = logits[rows]
    penalised = torch.where(scores > 0, scores / penalty, scores * penalty)
    logits[rows] = torch.where(torch.stack(list(masks.values())), penalised, scores)


def count_closing_braces(texts: Sequence[str], vocabulary: int) -> list[int]:
    """Closing braces of each token's text; tokens past ``texts`` have none."""
    counts = [text.count("}") for text in texts]
    return counts + [0] * (vocabulary - len(counts))
