"""TRL's trainers with what SAGE adds: packed passes, losses of our own methods, the divergence from
the reference, a log by parts, and resuming to the same weights.

Importing this takes seconds; :mod:`sage_core.training.worker` does so when it trains.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from torch.nn.functional import log_softmax
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from sage_core.config.training import uneven_batch
from sage_core.engines.loading import device_of, dtype_of
from sage_core.errors import ConfigError, DataError
from sage_core.storage import read_json, write_json
from sage_core.training.adapters import (
    ADAPTER,
    EARLIER,
    REFERENCE,
    TRAINED,
    activate,
    as_reference,
    save,
)
from sage_core.training.data import Usable
from sage_core.training.job import TRAINING_LOG, Job, Progress
from sage_core.training.method import (
    NOT_SCORED,
    Batch,
    Example,
    Given,
    LossMethod,
    Method,
    Settings,
    Training,
)
from sage_core.training.packed import score_here
from sage_core.training.processes import count

_STATE_FILE = "trainer_state.json"
_OF_THE_CLOCK = ("runtime", "per_second")  # differs from run to run, and would change the hash


class _Common:
    """What all trainers share. ``rows`` in a batch says where its examples stood in the input."""

    model: Any
    args: Any
    accelerator: Any
    state: Any
    train_dataset: Any
    data_collator: Any
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool
    _metrics: Any
    _total_train_tokens: int

    def prepare(self, job: Job, *, packed: bool) -> None:
        """Called once the model is set, before the first batch."""
        self._job, self._packed = job, packed
        self._seen: list[tuple[list[int], torch.Tensor]] = []
        activate(self.model)  # TRL's own adapters change that
        score_here(self.model.get_base_model(), packed=packed)

    def seen(self, rows: torch.Tensor, loss: torch.Tensor) -> None:
        self._seen.append((rows.tolist(), loss.detach()))

    def blamed(self) -> list[int]:
        """The examples of the last step, in all processes, whose loss is not finite, or all if only
        the gradient is not."""
        bad = [row for rows, loss in self._seen if not torch.isfinite(loss).all() for row in rows]
        every = [row for rows, _ in self._seen for row in rows]
        return sorted(gather_object(bad) or gather_object(every))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)  # type: ignore[misc]
        self._seen.clear()

    def weight(self, batch: Batch) -> torch.Tensor:
        """(K,) what a batch counts for in a step, in each of the K means that the loss adds up."""
        raise NotImplementedError

    def first(self, batch: Batch, count: int) -> Batch:
        """The batch with only its first ``count`` examples in the loss, which are all that ``rows``
        names. None: the batch stays, since every process has to compute one, and counts nothing."""
        raise NotImplementedError

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> Any:
        """(K,) the weights of a step, over all its batches and processes.

        At the end of an epoch, `accelerate` repeats examples of its start until all processes have
        a whole batch. These are left out here.
        """
        if batch_samples and self.accelerator.gradient_state.end_of_dataloader:
            each, processes = self.args.per_device_train_batch_size, self.accelerator.num_processes
            left = len(self.train_dataset) % (each * processes) or each * processes
            here = min(max(left - each * self.accelerator.process_index, 0), each)
            if here < len(batch_samples[-1]["rows"]):
                batch_samples[-1] = self.first(batch_samples[-1], here)
        weights = torch.stack([self.weight(batch).to(device) for batch in batch_samples])
        return self.accelerator.gather(weights.sum(0)[None]).sum(0)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Checkpoints in the work folder need none."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Only the adapter that is trained: all else is loaded from where it lies."""
        self.accelerator.unwrap_model(self.model).save_pretrained(
            output_dir,
            is_main_process=self.args.should_save,  # all processes come here
            selected_adapters=[TRAINED],
            state_dict=state_dict,
            save_embedding_layers=False,  # 'auto' would ask a hub whether the vocabulary grew
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
            return
        tensors = load_file(Path(resume_from_checkpoint) / ADAPTER)
        set_peft_model_state_dict(self.model, tensors, adapter_name=TRAINED)

    def fit(self, work: Path) -> None:
        """Train, from the last checkpoint in ``work`` on if there is one."""
        work.mkdir(parents=True, exist_ok=True)
        checkpoint = last_checkpoint(work)
        if checkpoint is not None:
            history = read_json(Path(checkpoint) / _STATE_FILE)["log_history"]
            self._total_train_tokens = int(history[-1].get("num_tokens", 0))
        self.remove_callback(PrinterCallback)  # type: ignore[attr-defined]
        self.train(resume_from_checkpoint=checkpoint)  # type: ignore[attr-defined]

    def finish(self, folder: Path, work: Path, usable: Usable[Any], passes: str) -> None:
        """Write the checkpoint and what was logged into ``folder``; ``passes`` says how tokens were
        scored."""
        trained = work / "trained"
        self.save_model(str(trained))  # type: ignore[attr-defined]
        if not self.accelerator.is_main_process:
            return
        save(folder, trained, self._job)
        history = [
            {key: value for key, value in entry.items() if not key.endswith(_OF_THE_CLOCK)}
            for entry in self.state.log_history
            if "loss" in entry  # the summary at the end counts from where training was resumed
        ]
        write_json(
            folder / TRAINING_LOG,
            {
                "examples": len(usable.rows),
                "left_out": usable.left_out,
                "passes": passes,
                "steps": self.state.global_step,
                "history": history,
            },
        )


class LossTrainer(_Common, SFTTrainer):  # type: ignore[misc]
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


class PreferenceTrainer(_Common, DPOTrainer):  # type: ignore[misc]
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


class Collator:
    """Batches of a :class:`LossMethod`, with the rows."""

    def __init__(self, method: LossMethod[Any, Any], pad: int) -> None:
        self._method, self._pad = method, pad

    def __call__(self, examples: Sequence[dict[str, Any]]) -> Batch:
        batch = self._method.collate(examples, self._pad)
        return {**batch, "rows": torch.tensor([example["row"] for example in examples])}


class PreferenceCollator(DataCollatorForPreference):  # type: ignore[misc]
    """TRL's, with the rows, and, to pack, the tokens that both replies of a pair share."""

    packed: bool = True

    def __call__(self, examples: list[dict[str, Any]], *args: Any) -> Batch:
        batch: Batch = self.torch_call(examples)
        batch["rows"] = torch.tensor([example["row"] for example in examples])
        if self.packed:
            batch["shared"] = torch.tensor([len(example["prompt_ids"]) for example in examples])
        return batch


class Watch(TrainerCallback):  # type: ignore[misc]
    """Reports steps, and stops at a loss or a gradient that is not finite, before it is saved."""

    def __init__(self, on_step: Progress) -> None:
        self._on_step = on_step
        self.trainer: _Common | None = None

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any
    ) -> None:
        for name in ("loss", "grad_norm"):
            value = logs.get(name, 0.0)
            if not math.isfinite(value):
                assert self.trainer is not None
                raise DataError(
                    f"the {'loss' if name == 'loss' else 'gradient'} is {value} at step "
                    f"{state.global_step}, in the examples {self.trainer.blamed()} of the input "
                    "(from 0); look at these, lower learning_rate, or use model.dtype=float32. "
                    f"The last good checkpoint is kept in '{args.output_dir}'"
                )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._on_step(state.global_step, state.max_steps)


def trainer_of(
    method: Method[Example, Given],
    training: Training[Given],
    model: Any,
    tokenizer: Any,
    job: Job,
    work: Path,
    on_step: Progress,
    *,
    packed: bool,
) -> LossTrainer | PreferenceTrainer:
    """The trainer of a method, on a model that :func:`sage_core.training.adapters.start` made;
    ``packed``: it computes no padding."""
    from datasets import Dataset

    rows = [
        {**row, "row": place} for row, place in zip(training.rows, training.places, strict=True)
    ]
    arguments = {
        **_arguments(work, job, training.settings),
        **method.arguments(training.settings),
        "max_length": None,
    }
    watch = Watch(on_step)
    common = {
        "job": job,
        "packed": packed,
        "model": model,
        "processing_class": tokenizer,
        "train_dataset": Dataset.from_list(rows),
        "callbacks": [watch],
    }
    trainer: LossTrainer | PreferenceTrainer
    if isinstance(method, LossMethod):
        trainer = LossTrainer(
            method,
            training.settings,
            args=SFTConfig(**arguments, dataset_kwargs={"skip_prepare_dataset": True}),
            data_collator=Collator(method, tokenizer.pad_token_id),
            **common,
        )
    else:
        collator = PreferenceCollator(tokenizer.pad_token_id)
        collator.packed = packed
        trainer = PreferenceTrainer(
            args=DPOConfig(**arguments, precompute_ref_log_probs=True),
            data_collator=collator,
            **common,
        )
    watch.trainer = trainer
    return trainer


def batches(settings: Settings, processes: int) -> tuple[int, int]:
    """How a step is cut: examples in a forward pass, ``micro_batch_size`` at most, and passes in
    each process; together exactly ``batch_size``.

    Raises:
        ConfigError: the processes cannot have equal parts of it.
    """
    if uneven := uneven_batch("batch_size", settings.batch_size, processes):
        raise ConfigError(uneven)
    here = settings.batch_size // processes
    micro = max(size for size in range(1, settings.micro_batch_size + 1) if here % size == 0)
    return micro, here // micro


def _arguments(work: Path, job: Job, settings: Settings) -> dict[str, Any]:
    processes = count()
    micro, passes = batches(settings, processes)
    cpu = device_of(job.model) == "cpu"
    return {
        "output_dir": str(work),
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "cosine",
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": passes,
        "gradient_checkpointing": job.training.gradient_checkpointing,
        # The paper's loss is the tokens' alone; Mixtral's load balancing would be added to it.
        "router_aux_loss_coef": 0.0,
        "bf16": dtype_of(job.model) == "bfloat16",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps" if job.training.save_steps else "no",
        "save_steps": job.training.save_steps or 1,
        "save_total_limit": 2,  # one of them is whole, whenever the run is killed
        "remove_unused_columns": False,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": job.seed,
        "data_seed": job.seed,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": not cpu,
        "use_cpu": cpu,
        "ddp_backend": "gloo" if cpu and processes > 1 else None,
        "ddp_find_unused_parameters": False,
    }


def last_checkpoint(work: Path) -> str | None:
    """The last whole checkpoint: the trainer writes its state last."""
    import shutil

    while (found := get_last_checkpoint(str(work))) is not None:
        try:
            read_json(Path(found) / _STATE_FILE)
        except DataError:
            shutil.rmtree(found, ignore_errors=True)
        else:
            return str(found)
    return None
