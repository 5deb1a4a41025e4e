"""TRL's DPO trainer, which trains on pairs of replies."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import log_softmax
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from sage_core.training.adapters import EARLIER, REFERENCE, as_reference
from sage_core.training.job import Job
from sage_core.training.method import NOT_SCORED, Batch
from sage_core.training.trainer import CommonTrainer


class PreferenceTrainer(CommonTrainer, DPOTrainer):  # type: ignore[misc]
    """TRL's losses; the reference is the model that training starts from, and its divergence is
    logged.

    TRL takes the mean of each term over a batch, and the mean of these over the batches of a step,
    which depends on how a step is cut into batches: those of the SFT term differ in their tokens,
    and the last of an epoch in its pairs. Here each term is a mean over the whole step.
    """

    loss_is_scaled_for_ga = True
    loss_types: Sequence[str]
    loss_weights: Sequence[Any]

    def __init__(self, job: Job, packed: bool, **arguments: Any) -> None:
        self._job, self._packed = job, packed
        self._kl: list[float] = []
        super().__init__(**arguments)

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset  # its tokens are ours

    def _precompute_ref_logps(self, dataset: Any, *args: Any) -> Any:
        if EARLIER in self.model.peft_config or self._job.lora.chain == "merged":
            self.model.delete_adapter(REFERENCE)  # TRL's copy; without the new adapter is the same
        self.prepare(self._job, packed=self._packed)
        if self.accelerator.num_processes > 1:
            # One process writes them for all, by default to a folder that only it knows.
            work = Path(self.args.output_dir)
            work.mkdir(parents=True, exist_ok=True)
            dataset._get_cache_file_path = lambda name: str(work / f"reference-{name}.arrow")
        return super()._precompute_ref_logps(dataset, *args)

    def compute_ref_log_probs(self, model: Any, inputs: Batch) -> Any:
        """(B,) of the chosen and of the rejected: nothing is trained yet, so of the model as it
        is."""
        self.model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            log_probs = model(**self._scoring(inputs)).log_probs
        self.model.train()
        return log_probs.sum(1).chunk(2)

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``num_items_in_batch`` (2,): pairs, and tokens of the chosen, in this optimiser step."""
        given = self.loss_weights
        if num_items_in_batch is not None:
            self.loss_weights = self._shares(inputs, num_items_in_batch)
        inputs = dict(inputs)
        rows = inputs.pop("rows")
        try:
            loss: torch.Tensor = super().compute_loss(model, inputs, return_outputs)
        finally:
            self.loss_weights = given
        if not self._kl:
            self._kl.append(self._divergence(model, inputs))
        self.seen(rows, loss)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._kl:
            here = torch.tensor(self._kl[0], device=self.accelerator.device)
            logs["kl"] = self.accelerator.gather(here).mean().item()
            self._kl.clear()
        super().log(logs, start_time)

    def weight(self, batch: Batch) -> torch.Tensor:
        """(2,) pairs, and tokens of the chosen."""
        chosen, _ = batch["completion_mask"][:, 1:].chunk(2)
        pairs = len(batch["rows"])
        return torch.stack([chosen.new_tensor(pairs), chosen.sum() * bool(pairs)])

    def first(self, batch: Batch, count: int) -> Batch:
        """As a batch of the same shape, which TRL's metrics need in all processes: what is left
        out has no scored token, so no gradient."""
        keeps = torch.arange(len(batch["rows"]), device=batch["rows"].device) < max(count, 1)
        both = keeps.repeat(2)[:, None]
        return {
            **batch,
            "rows": batch["rows"][:count],
            "completion_mask": batch["completion_mask"] * both,
            **{name: batch[name] * keeps for name in ("ref_chosen_logps", "ref_rejected_logps")},
        }

    def _shares(self, batch: Batch, step: torch.Tensor) -> list[Any]:
        """The terms' weights times what this batch has of the step: a mean over a batch becomes its
        part of the mean over the step."""
        size = len(batch["input_ids"]) // 2 * bool(len(batch["rows"]))
        pairs, tokens = size / step[0], self.weight(batch)[1] / step[1]
        processes = self.accelerator.num_processes  # the gradient is averaged over these
        return [
            weight * processes * (tokens if kind == "sft" else pairs)
            for kind, weight in zip(self.loss_types, self.loss_weights, strict=True)
        ]

    def _divergence(self, model: Any, inputs: Batch) -> float:
        """KL(model || reference) in nats per token, over the whole vocabulary, on the replies of
        the first pair of the step: exact there, and a pair a step shows the course."""
        pairs = len(inputs["input_ids"]) // 2
        first = {
            name: inputs[name][[0, pairs]]
            for name in ("input_ids", "attention_mask", "completion_mask")
        }
        if self._packed:
            first["shared"] = inputs["shared"][:1]
        self.model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            now = self._log_distributions(model, first)
            with as_reference(self.accelerator.unwrap_model(model)):
                before = self._log_distributions(model, first)
        self.model.train()
        return float((now.exp() * (now - before)).sum(-1).mean())

    def _log_distributions(self, model: Any, inputs: Batch) -> torch.Tensor:
        """(S, V) at the S positions before the replies' tokens."""
        logits = model(**self._scoring(inputs), with_logits=True).logits
        return log_softmax(logits.float(), dim=-1)

    def _scoring(self, inputs: Batch) -> dict[str, Any]:
        names = ("input_ids", "attention_mask", *(["shared"] if self._packed else []))
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, NOT_SCORED)
        given = {name: inputs[name] for name in names}
        return {**given, "labels": labels, "use_cache": False, "fused_lm_head": True}


class PreferenceCollator(DataCollatorForPreference):  # type: ignore[misc]
    """TRL's, with the rows, and, to pack, the tokens that both replies of a pair share."""

    packed: bool = True

    def __call__(self, examples: list[dict[str, Any]], *args: Any) -> Batch:
        batch: Batch = self.torch_call(examples)
        batch["rows"] = torch.tensor([example["row"] for example in examples])
        if self.packed:
            batch["shared"] = torch.tensor([len(example["prompt_ids"]) for example in examples])
        return batch
