"""Trains m1, then m2 stacked on it, then dpo: a process of its own, for tests that kill it.

    python run_rounds.py BASE OUTPUT [NAME STEP]

Says "NAME STEP" after every step, and dies of SIGKILL after the one named. Folders that are
finished are not made again.
"""

import os
import signal
import sys
from pathlib import Path

from training_examples import DIALOGUES, PAIRS

from sage_core.config.model import ModelConfig
from sage_core.config.training import DPOConfig, LoraConfig, SFTConfig, TrainingConfig
from sage_core.training.dpo import train_dpo
from sage_core.training.job import Job
from sage_core.training.sft import train_sft

SFT = SFTConfig(epochs=2, batch_size=2, micro_batch_size=1, learning_rate=1e-2)
DPO = DPOConfig(epochs=2, batch_size=2, micro_batch_size=1, learning_rate=1e-2)


def main(base: Path, output: Path, last: str) -> None:
    parent = None
    for name in ("m1", "m2", "dpo"):
        lora = LoraConfig(rank=4, dropout=0.1, chain="stacked")  # dropout draws random numbers
        model = ModelConfig(dtype="float32", device="cpu")
        job = Job(name, base, parent, model, lora, TrainingConfig(save_steps=3), seed=0)
        parent = output / name
        if parent.is_dir():
            continue
        building = output / f"{name}.building"
        building.mkdir(exist_ok=True)

        def say(step: int, steps: int, name: str = name) -> None:
            print(name, step, flush=True)  # noqa: T201
            if f"{name} {step}" == last:
                os.kill(os.getpid(), signal.SIGKILL)

        work = output / f"{name}.work"
        if name == "dpo":
            train_dpo(building, job, PAIRS, DPO, work, say)
        else:
            train_sft(building, job, DIALOGUES, SFT, work, say)
        building.rename(parent)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), " ".join(sys.argv[3:]))
