"""LoRA fine-tuning and preference learning on TRL.

A checkpoint is one adapter over m0: each round goes on training the adapter of the model before
it, so that every model is a base and one adapter, and chains need no merging. Checkpoints hold no
path and no set order, so that equal training gives equal bytes.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sage_core.config import DPOConfig, LoraConfig, ModelConfig, SFTConfig
from sage_core.engines.loading import device_of, load_model, load_tokenizer
from sage_core.errors import DataError
from sage_core.schema import Message, PreferencePair, TrainingDialogue
from sage_core.storage import read_json, write_json
from sage_core.training.data import fitting_dialogues, fitting_pairs

TRAINING_LOG = "training_log.json"
_ADAPTER_CONFIG = "adapter_config.json"
_KEPT = (_ADAPTER_CONFIG, "adapter_model.safetensors")
Progress = Callable[[int, int], None]


def train_sft(
    folder: Path,
    base: Path,
    parent: Path | None,
    dialogues: Sequence[TrainingDialogue],
    config: SFTConfig,
    lora: LoraConfig,
    model_config: ModelConfig,
    seed: int,
    on_step: Progress = lambda step, steps: None,
) -> None:
    """Fine-tune on dialogues with the loss on assistant messages only; fills ``folder``.

    ``parent`` is the adapter to go on from, None for a new one. ``on_step(step, steps)`` is called
    after every optimiser step.

    Raises:
        DataError: nothing to train on, or the loss is not finite.
    """
    from datasets import Dataset
    from trl import SFTConfig as TrlSFTConfig

    tokenizer: Any = load_tokenizer(base)
    fitting = fitting_dialogues(dialogues, config.max_length, _length(tokenizer))
    model = (
        _new(base, lora, model_config, seed)
        if parent is None
        else _continued(base, parent, model_config, seed)
    )
    arguments = TrlSFTConfig(
        **_common_arguments(folder, model_config, config, seed, len(fitting)),
        assistant_only_loss=True,
        max_length=config.max_length,
        packing=False,
    )
    trainer = _sft_trainer_class()(
        model=model,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([asdict(dialogue) for dialogue in fitting]),
        callbacks=[_callback(on_step)],
    )
    _train(trainer)
    _save(folder, trainer, model_config, len(fitting))


def train_dpo(
    folder: Path,
    base: Path,
    parent: Path,
    pairs: Sequence[PreferencePair],
    config: DPOConfig,
    model_config: ModelConfig,
    seed: int,
    on_step: Progress = lambda step, steps: None,
) -> None:
    """Direct preference optimisation from ``parent``, which is also the reference; see
    :func:`train_sft`."""
    from datasets import Dataset
    from trl import DPOConfig as TrlDPOConfig
    from trl import DPOTrainer

    tokenizer: Any = load_tokenizer(base)
    fitting = fitting_pairs(pairs, config.max_length, _length(tokenizer))
    model = _continued(base, parent, model_config, seed)
    terms: dict[str, Any] = {"loss_type": ["sigmoid"]}
    if config.sft_weight:
        terms = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, config.sft_weight]}
    arguments = TrlDPOConfig(
        **_common_arguments(folder, model_config, config, seed, len(fitting)),
        **terms,
        beta=config.beta,
        max_length=config.max_length,
        precompute_ref_log_probs=True,
    )
    trainer = DPOTrainer(
        model=model,
        args=arguments,
        processing_class=tokenizer,
        train_dataset=Dataset.from_list([_conversational(pair) for pair in fitting]),
        callbacks=[_callback(on_step)],
    )
    _train(trainer)
    _save(folder, trainer, model_config, len(fitting))


def _sft_trainer_class() -> type[Any]:
    """TRL's trainer with the same loss, but logits only where there is one.

    TRL computes the vocabulary's logits, and their entropy, for every token, the masked ones
    included; with a small model on a CPU that is most of the work.
    """
    import torch
    from trl import SFTTrainer

    class Trainer(SFTTrainer):  # type: ignore[misc]
        def compute_loss(
            self,
            model: Any,
            inputs: dict[str, torch.Tensor],
            return_outputs: bool = False,
            num_items_in_batch: torch.Tensor | None = None,
        ) -> Any:
            causal = self.accelerator.unwrap_model(model).get_base_model()
            labels = inputs["labels"][:, 1:]
            with self.accelerator.autocast():
                hidden = causal.get_decoder()(
                    input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]
                ).last_hidden_state[:, :-1]
                scored = labels != -100
                logits = causal.get_output_embeddings()(hidden[scored])
            total = torch.nn.functional.cross_entropy(
                logits.float(), labels[scored], reduction="sum"
            )
            loss = total / (scored.sum() if num_items_in_batch is None else num_items_in_batch)
            return (loss, {"logits": logits}) if return_outputs else loss

    return Trainer


def _train(trainer: Any) -> None:
    """Train without the trainer's own printing: progress is the caller's."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()


def read_log(folder: Path) -> dict[str, Any]:
    """What :func:`train_sft` or :func:`train_dpo` logged: ``examples``, ``steps`` and
    ``history``, a list of metrics by step."""
    log: dict[str, Any] = read_json(folder / TRAINING_LOG)
    return log


def read_losses(folder: Path) -> list[tuple[int, float]]:
    """(step, loss) of every logged optimiser step of a checkpoint."""
    history = read_log(folder)["history"]
    return [(int(entry["step"]), float(entry["loss"])) for entry in history if "loss" in entry]


def _conversational(pair: PreferencePair) -> dict[str, Any]:
    return {
        "prompt": [asdict(message) for message in pair.prompt],
        "chosen": [asdict(Message("assistant", pair.chosen))],
        "rejected": [asdict(Message("assistant", pair.rejected))],
    }


def _length(tokenizer: Any) -> Callable[[Sequence[Message]], int]:
    def length(messages: Sequence[Message]) -> int:
        text = tokenizer.apply_chat_template([asdict(m) for m in messages], tokenize=False)
        return len(tokenizer.encode(text, add_special_tokens=False))

    return length


def _new(base: Path, lora: LoraConfig, model_config: ModelConfig, seed: int) -> Any:
    """The base with a new adapter."""
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model
    from transformers import set_seed

    set_seed(seed)
    return get_peft_model(
        load_model(base, model_config),
        PeftLoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=list(lora.target_modules),
            task_type="CAUSAL_LM",
        ),
    )


def _continued(base: Path, parent: Path, model_config: ModelConfig, seed: int) -> Any:
    """The base with the adapter of ``parent``, to be trained on."""
    from peft import PeftModel
    from transformers import set_seed

    set_seed(seed)
    return PeftModel.from_pretrained(load_model(base, model_config), parent, is_trainable=True)


def _common_arguments(
    folder: Path,
    model_config: ModelConfig,
    config: SFTConfig | DPOConfig,
    seed: int,
    examples: int,
) -> dict[str, Any]:
    micro = min(config.micro_batch_size, config.batch_size, examples)
    return {
        "output_dir": str(folder),
        "num_train_epochs": config.epochs,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": config.warmup_steps if isinstance(config, SFTConfig) else 0,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": max(1, config.batch_size // micro),
        "gradient_checkpointing": False,
        "bf16": model_config.dtype == "bfloat16",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
        "data_seed": seed,
        "dataloader_num_workers": 0,
        "use_cpu": device_of(model_config) == "cpu",
    }


def _callback(on_step: Progress) -> Any:
    import math

    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        """Reports steps, and stops at a loss that is not finite."""

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            loss = (logs or {}).get("loss")
            if loss is not None and not math.isfinite(loss):
                raise DataError(
                    f"the loss is {loss} at step {state.global_step}; lower learning_rate, or use "
                    "model.dtype=float32"
                )

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            on_step(state.global_step, state.max_steps)

    return Watch()


def _save(folder: Path, trainer: Any, model_config: ModelConfig, examples: int) -> None:
    model = trainer.model
    for adapter in model.peft_config.values():
        adapter.base_model_name_or_path = model_config.base
    model.save_pretrained(
        folder,
        selected_adapters=["default"],
        save_embedding_layers=False,  # 'auto' would ask a hub whether the vocabulary grew
    )
    adapter_config = read_json(folder / _ADAPTER_CONFIG)
    adapter_config["target_modules"] = sorted(adapter_config["target_modules"])
    write_json(folder / _ADAPTER_CONFIG, adapter_config)
    timing = ("runtime", "per_second")  # differs from run to run, and would change the hash
    history = [
        {key: value for key, value in entry.items() if not any(word in key for word in timing)}
        for entry in trainer.state.log_history
    ]
    write_json(
        folder / TRAINING_LOG,
        {"examples": examples, "steps": trainer.state.global_step, "history": history},
    )
    for path in folder.iterdir():
        if path.name not in (*_KEPT, TRAINING_LOG):
            path.unlink()
