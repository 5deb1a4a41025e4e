"""Fine-tuning with the loss on exactly what the agent says: its states, its words, its end token.

Departs from the paper in that the parts of a reply may have weights (``sft.weights``), whose
losses are logged one by one.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sage_core.config import SFTConfig
from sage_core.engines import memory
from sage_core.engines.loading import load_tokenizer
from sage_core.schema import TrainingDialogue
from sage_core.training import chain, launch
from sage_core.training.data import fitting_dialogues
from sage_core.training.job import Job, Progress, no_progress
from sage_core.training.tokens import Encoder


def train_sft(
    folder: Path,
    job: Job,
    dialogues: Sequence[TrainingDialogue],
    settings: SFTConfig,
    work: Path | None = None,
    on_step: Progress = no_progress,
) -> None:
    """Fine-tune on dialogues; fills ``folder`` with the adapter, its lineage and the training log.

    Args:
        folder: an empty one.
        work: where checkpoints are kept until training has ended; one that was killed goes on from
            there, to the same result. None = a temporary folder.
        on_step: called with (step, steps) after every optimiser step.

    Raises:
        DataError: nothing to train on, or the loss is not finite.
    """
    memory.release()  # training has the machine to itself
    if job.training.launcher and not launch.launched():
        launch.train(folder, job, dialogues, settings, work, on_step)
        return
    tokenizer: Any = load_tokenizer(job.base)
    encoder = Encoder(tokenizer)
    usable = fitting_dialogues(dialogues, settings.max_length, encoder.length)
    with TemporaryDirectory() as scratch:
        kept = work or Path(scratch)
        from sage_core.training.trainers import sft_trainer  # imports TRL

        examples = [encoder.dialogue(row) for row in usable.rows]
        model = chain.start(job)
        trainer = sft_trainer(model, tokenizer, examples, usable, settings, job, kept, on_step)
        trainer.fit(kept)
        trainer.finish(folder, kept, usable)
    if not launch.launched() or launch.is_main():
        chain.write_lineage(folder, job, "sft", dialogues)
