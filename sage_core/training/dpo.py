"""Direct preference optimisation on chosen against rejected candidates (section 4.5).

The reference is exactly the model that training starts from; its log-probabilities are computed
once, before. With ``dpo.sft_weight`` the loss has an SFT term on the chosen, as in the release.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sage_core.config.training import DPOConfig
from sage_core.schema import PreferencePair
from sage_core.training.data import Length, Usable, fitting_pairs
from sage_core.training.job import Job, Progress, no_progress
from sage_core.training.launch import train
from sage_core.training.method import PreferenceMethod


class DPO(PreferenceMethod[DPOConfig]):
    """TRL's sigmoid loss (Rafailov et al., 2023), with an SFT term."""

    name = "dpo"
    settings = DPOConfig

    def fitting(
        self, examples: Sequence[PreferencePair], settings: DPOConfig, length: Length
    ) -> Usable[PreferencePair]:
        return fitting_pairs(examples, settings.max_length, length)

    def arguments(self, settings: DPOConfig) -> dict[str, Any]:
        terms: dict[str, Any] = {"loss_type": ["sigmoid"]}
        if settings.sft_weight:
            terms = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, settings.sft_weight]}
        return {**terms, "beta": settings.beta}


def train_dpo(
    folder: Path,
    job: Job,
    pairs: Sequence[PreferencePair],
    settings: DPOConfig,
    work: Path | None = None,
    on_step: Progress = no_progress,
) -> None:
    """Preference learning from ``job.parent``; see :func:`sage_core.training.launch.train`."""
    assert job.parent is not None
    train(DPO(), folder, job, pairs, settings, work, on_step)
