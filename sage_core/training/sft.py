"""Fine-tuning with the loss on exactly what the agent says: its states, its words, its end token.

Departs from the paper in that the parts of a reply may have weights (``sft.weights``), whose
losses are logged one by one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sage_core.config.training import SFTConfig
from sage_core.schema import TrainingDialogue
from sage_core.training.data import Length, Usable, fitting_dialogues
from sage_core.training.job import Job, Progress, no_progress
from sage_core.training.launch import train
from sage_core.training.method import NOT_SCORED, Batch, LossMethod, Tally, log_probs, padded
from sage_core.training.tokens import NO_LOSS, SEGMENTS, Encoder

if TYPE_CHECKING:
    import torch


class SFT(LossMethod[TrainingDialogue, SFTConfig]):
    """The mean loss over tokens, each with the weight of its segment."""

    name = "sft"
    example = TrainingDialogue
    settings = SFTConfig
    parts = SEGMENTS

    def fitting(
        self, examples: Sequence[TrainingDialogue], settings: SFTConfig, length: Length
    ) -> Usable[TrainingDialogue]:
        return fitting_dialogues(examples, settings.max_length, length)

    def encode(self, example: TrainingDialogue, encoder: Encoder) -> dict[str, list[int]]:
        encoded = encoder.dialogue(example)
        return {"input_ids": encoded.ids, "segments": encoded.segments}

    def arguments(self, settings: SFTConfig) -> dict[str, Any]:
        return {"warmup_steps": settings.warmup_steps}

    def collate(self, rows: Sequence[dict[str, list[int]]], pad: int) -> Batch:
        batch = padded(rows, input_ids=pad, segments=NO_LOSS)
        unscored = batch["segments"] == NO_LOSS
        return {**batch, "labels": batch["input_ids"].masked_fill(unscored, NOT_SCORED)}

    def weight(self, batch: Batch, settings: SFTConfig) -> "torch.Tensor":
        return _weights(batch, settings).sum()

    def loss(self, model: Any, batch: Batch, settings: SFTConfig, tally: Tally) -> "torch.Tensor":
        losses = -log_probs(model, batch)
        tally.add(batch["segments"][:, 1:], losses)
        return (losses * _weights(batch, settings)).sum()


def _weights(batch: Batch, settings: SFTConfig) -> "torch.Tensor":
    """(B, T - 1), of each token from the second on."""
    import torch

    segments = batch["segments"][:, 1:]
    by_segment = [0.0, *(getattr(settings.weights, name) for name in SEGMENTS)]
    return torch.tensor(by_segment, device=segments.device)[segments]


def train_sft(
    folder: Path,
    job: Job,
    dialogues: Sequence[TrainingDialogue],
    settings: SFTConfig,
    work: Path | None = None,
    on_step: Progress = no_progress,
) -> None:
    """Fine-tune on dialogues; see :func:`sage_core.training.launch.train`."""
    train(SFT(), folder, job, dialogues, settings, work, on_step)
