"""Adapters, processes, and the two methods of training."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from sage_core.config.section import NEVER_RUN, NonNegative, Positive, Runtime, Section


class LoraConfig(Section):
    """The adapter. The paper gives no rank; these are the release's trainer defaults."""

    rank: Positive = 8
    alpha: Positive = 16
    dropout: float = Field(0.0, ge=0, lt=1)
    target_modules: Literal["auto", "all-linear"] | tuple[str, ...] = Field(
        "auto",
        description="The linear layers that are adapted, by name. 'auto': those that peft knows "
        "for the architecture (q_proj and v_proj of most), else 'all-linear', which is all but the "
        "output layer.",
    )
    chain: Literal["continue", "stacked", "merged"] = Field(
        "continue",
        description="How a round continues the adapter of the last: 'continue' trains the same "
        "one on, 'stacked' a new one on top of it, 'merged' a new one on the base with it merged "
        "in. All three save one adapter over m0; with the last two its rank grows by 'rank' each "
        "round.",
    )


class LauncherConfig(Section):
    """Several processes of `accelerate launch` on this machine, or what a file of its says."""

    processes: Positive = Field(2, description="One for each GPU.")
    strategy: Literal["ddp", "fsdp", "zero2", "zero3"] = Field(
        "ddp",
        description="'ddp': each process holds the model; 'fsdp' and 'zero3' (DeepSpeed) share out "
        "its weights, 'zero2' only gradients and optimiser. All but 'ddp': "
        f"{NEVER_RUN}.",
    )
    accelerate_config: Path | None = Field(
        None,
        description="A file of `accelerate config`, in place of processes and strategy.",
    )


class TrainingConfig(Section):
    """How training runs; what it learns from is in sft, refine.sft and dpo."""

    packing: bool = Field(
        True,
        description="Compute no padding, and logits only where there is a loss; models that this "
        "would change, by a self-test at load, are always padded.",
    )
    gradient_checkpointing: Runtime[bool] = Field(
        False, description="Compute activations twice instead of keeping them: slower, smaller."
    )
    save_steps: Runtime[NonNegative] = Field(
        50,
        description="Optimiser steps between checkpoints that a killed run resumes from; 0 = none.",
    )
    launcher: LauncherConfig | None = Field(
        None, description="Train in several processes, by `accelerate launch`; empty = in this one."
    )


def uneven_batch(key: str, batch_size: int, processes: int) -> str:
    """Why the processes cannot have equal parts of a step, with the fix; '' if they can."""
    if batch_size % processes == 0:
        return ""
    return (
        f"{key} = {batch_size} cannot be shared out equally over {processes} processes; set it to "
        f"a multiple of {processes}, or change training.launcher.processes"
    )


class SegmentWeights(Section):
    """Weights of the loss on the parts of a reply; 0 = no gradient, its loss still logged."""

    state: float = Field(1.0, ge=0, description="The user's state, as the agent predicts it.")
    action: float = Field(1.0, ge=0, description="The agent's own action.")
    utterance: float = Field(1.0, ge=0, description="What it says, and the token that ends it.")

    @model_validator(mode="after")
    def _one_is_positive(self) -> Self:
        if not (self.state or self.action or self.utterance):
            raise ValueError("state, action and utterance are all 0; give one of them a weight")
        return self


class SFTConfig(Section):
    """Fine-tuning with the loss on the assistant's messages only (sections 4.3 and 4.4)."""

    epochs: float = Field(5.0, gt=0)
    learning_rate: float = Field(5e-5, gt=0)
    batch_size: Positive = Field(
        32, description="Dialogues per optimiser step; a multiple of training.launcher.processes."
    )
    micro_batch_size: Positive = Field(
        4,
        description="Dialogues per forward pass at most: the largest number that divides those of "
        "a step in each process. The loss does not depend on it.",
    )
    warmup_steps: NonNegative = 0
    max_length: Positive = Field(2048, description="Tokens; longer is cut by whole turns.")
    weights: SegmentWeights = SegmentWeights()


class DPOConfig(Section):
    """Preference learning on chosen against rejected candidates (section 4.5)."""

    epochs: float = Field(3.0, gt=0)
    learning_rate: float = Field(1e-5, gt=0)
    beta: float = Field(0.1, gt=0)
    sft_weight: float = Field(1.0, ge=0, description="Weight of the SFT term on the chosen.")
    pairs_from: Literal["rounds", "last"] = Field(
        "rounds",
        description="'rounds': the candidates of all rounds, of which none are of the model that "
        "DPO starts from; 'last': those of one more search, with that model.",
    )
    rejected: Literal["random", "lowest"] = Field(
        "random",
        description="One of the other candidates at random, as in the paper, or the one with the "
        "fewest votes.",
    )
    batch_size: Positive = Field(16, description="Pairs per optimiser step; as in sft.")
    micro_batch_size: Positive = Field(2, description="Pairs per forward pass at most; as in sft.")
    max_pairs: NonNegative = Field(0, description="Pairs used, drawn at random; 0 = all.")
    max_length: Positive = 4096
