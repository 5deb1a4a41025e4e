"""TRL's SFT trainer with the loss of a method of our own, such as SFT's."""

from collections.abc import Sequence
from typing import Any

import torch
from trl import SFTTrainer

from sage_core.training.job import Job
from sage_core.training.method import Batch, LossMethod, Settings
from sage_core.training.trainer import CommonTrainer


class LossTrainer(CommonTrainer, SFTTrainer):  # type: ignore[misc]
    """The loss of a :class:`LossMethod`."""

    def __init__(
        self,
        method: LossMethod[Any, Any],
        settings: Settings,
        job: Job,
        packed: bool,
        **arguments: Any,
    ) -> None:
        super().__init__(**arguments)
        self._method, self._settings = method, settings
        self._sums = Sums(len(method.parts), self.accelerator.device)
        self.prepare(job, packed=packed)

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``num_items_in_batch`` (1,) is the sum of the weights in this optimiser step."""
        divisor = self.weight(inputs) if num_items_in_batch is None else num_items_in_batch
        inputs = dict(inputs)
        rows = inputs.pop("rows")
        sums = self._sums if len(rows) else Sums(len(self._method.parts), self.accelerator.device)
        total = self._method.loss(model, inputs, self._settings, sums) * bool(len(rows))
        # clamped: in a step without weight there is nothing to learn, and nothing to divide by
        loss = total / divisor[0].clamp(min=torch.finfo(total.dtype).tiny)
        if num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # the gradient is averaged over these
        self.seen(rows, loss)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        sums, counts = self.accelerator.reduce(self._sums.totals, "sum").tolist()
        for part, name in enumerate(self._method.parts, start=1):
            if counts[part]:
                logs[f"loss/{name}"] = sums[part] / counts[part]
        self._sums.totals.zero_()
        super().log(logs, start_time)

    def weight(self, batch: Batch) -> torch.Tensor:
        """(1,) as the method weighs it."""
        weight = self._method.weight(batch, self._settings) * bool(len(batch["rows"]))
        return weight[None]

    def first(self, batch: Batch, count: int) -> Batch:
        """A method's batch has no known form, so it is made anew."""
        rows, known = batch["rows"].tolist(), self.train_dataset["row"][:]
        kept = [self.train_dataset[known.index(row)] for row in rows[: max(count, 1)]]
        return {**self.data_collator(kept), "rows": batch["rows"][:count]}


class Sums:
    """The :class:`Tally` of this process: sums and counts (2, parts + 1), in float64."""

    def __init__(self, parts: int, device: torch.device) -> None:
        self.totals = torch.zeros(2, 1 + parts, dtype=torch.float64, device=device)

    def add(self, parts: torch.Tensor, values: torch.Tensor) -> None:
        counts = torch.ones_like(values, dtype=torch.float64)
        for total, each in zip(self.totals, (values.detach().double(), counts), strict=True):
            total.index_add_(0, parts.flatten(), each.flatten())


class Collator:
    """Batches of a :class:`LossMethod`, with the rows."""

    def __init__(self, method: LossMethod[Any, Any], pad: int) -> None:
        self._method, self._pad = method, pad

    def __call__(self, examples: Sequence[dict[str, Any]]) -> Batch:
        batch = self._method.collate(examples, self._pad)
        return {**batch, "rows": torch.tensor([example["row"] for example in examples])}
