"""Direct preference optimisation on chosen against rejected candidates (section 4.5).

The reference is exactly the model that training starts from; its log-probabilities are computed
once, before. With ``dpo.sft_weight`` the loss has an SFT term on the chosen, as in the release.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sage_core.config import DPOConfig
from sage_core.engines import memory
from sage_core.engines.loading import load_tokenizer
from sage_core.schema import PreferencePair
from sage_core.training import chain, launch
from sage_core.training.data import fitting_pairs
from sage_core.training.job import Job, Progress, no_progress
from sage_core.training.tokens import Encoder


def train_dpo(
    folder: Path,
    job: Job,
    pairs: Sequence[PreferencePair],
    settings: DPOConfig,
    work: Path | None = None,
    on_step: Progress = no_progress,
) -> None:
    """Preference learning from ``job.parent``; see :func:`sage_core.training.sft.train_sft`."""
    assert job.parent is not None
    memory.release()  # training has the machine to itself
    if job.training.launcher and not launch.launched():
        launch.train(folder, job, pairs, settings, work, on_step)
        return
    tokenizer: Any = load_tokenizer(job.base)
    encoder = Encoder(tokenizer)
    usable = fitting_pairs(pairs, settings.max_length, encoder.length)
    with TemporaryDirectory() as scratch:
        kept = work or Path(scratch)
        from sage_core.training.trainers import dpo_trainer  # imports TRL

        examples = [encoder.pair(row) for row in usable.rows]
        model = chain.start(job)
        trainer = dpo_trainer(model, tokenizer, examples, usable, settings, job, kept, on_step)
        trainer.fit(kept)
        trainer.finish(folder, kept, usable)
    if not launch.launched() or launch.is_main():
        chain.write_lineage(folder, job, "dpo", pairs)
