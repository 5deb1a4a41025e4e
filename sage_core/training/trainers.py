"""The trainer of a method: one of TRL's, with what SAGE adds, and its arguments.

Importing this takes seconds; :mod:`sage_core.training.worker` does so when it trains.
"""

from pathlib import Path
from typing import Any

from trl import DPOConfig, SFTConfig

from sage_core.config.training import uneven_batch
from sage_core.engines.loading import device_of, dtype_of
from sage_core.errors import ConfigError
from sage_core.training.job import Job, Progress
from sage_core.training.loss_trainer import Collator, LossTrainer
from sage_core.training.method import Example, Given, LossMethod, Method, Settings, Training
from sage_core.training.preference_trainer import PreferenceCollator, PreferenceTrainer
from sage_core.training.processes import count
from sage_core.training.trainer import Watch


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
