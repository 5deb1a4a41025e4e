"""Settings that only say how training runs change no byte of what it makes."""

from pathlib import Path

import pytest
from training_examples import DIALOGUES, DPO, FLOAT, PAIRS, SFT

from sage_core.config.training import LoraConfig, TrainingConfig
from sage_core.storage import content_hash
from sage_core.training.dpo import train_dpo
from sage_core.training.job import Job
from sage_core.training.sft import train_sft


@pytest.mark.parametrize("packing", [True, False])
def test_checkpointing_and_saving_change_no_byte(
    tiny_base: Path, tmp_path: Path, packing: bool
) -> None:
    """With dropout, whose draws are repeated where activations are computed again."""
    made = []
    for number, (checkpointing, save_steps) in enumerate(((False, 0), (True, 1))):
        training = TrainingConfig(
            packing=packing, gradient_checkpointing=checkpointing, save_steps=save_steps
        )
        lora = LoraConfig(rank=2, dropout=0.1)
        m1, preferred = tmp_path / f"m1-{number}", tmp_path / f"dpo-{number}"
        m1.mkdir()
        preferred.mkdir()
        train_sft(m1, Job("m1", tiny_base, None, FLOAT, lora, training, 0), DIALOGUES, SFT)
        train_dpo(preferred, Job("dpo", tiny_base, m1, FLOAT, lora, training, 0), PAIRS, DPO)
        made.append((content_hash(m1), content_hash(preferred)))
    assert made[0] == made[1]
