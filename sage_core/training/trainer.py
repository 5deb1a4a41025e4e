"""What the trainers of all methods share: packed passes, steps that any number of processes divides
alike, one adapter as the checkpoint, and resuming to the same weights."""

import math
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from sage_core.errors import DataError
from sage_core.storage import read_json, write_json
from sage_core.training.adapters import ADAPTER, TRAINED, activate, save
from sage_core.training.data import Usable
from sage_core.training.job import TRAINING_LOG, Job, Progress
from sage_core.training.method import Batch
from sage_core.training.packed import score_here

_STATE_FILE = "trainer_state.json"
_OF_THE_CLOCK = ("runtime", "per_second")  # differs from run to run, and would change the hash


class CommonTrainer:
    """Comes before one of TRL's trainers in a class's bases. ``rows`` in a batch says where its
    examples are in the input."""

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
        """Only the adapter that is trained: all else is loaded from its own folder."""
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


class Watch(TrainerCallback):  # type: ignore[misc]
    """Reports steps, and stops at a loss or a gradient that is not finite, before it is saved."""

    def __init__(self, on_step: Progress) -> None:
        self._on_step = on_step
        self.trainer: CommonTrainer | None = None

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
