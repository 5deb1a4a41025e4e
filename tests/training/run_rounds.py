"""Trains m1, then m2 stacked on it, then dpo, for tests that kill it.

    python run_rounds.py BASE OUTPUT [LAST ...]

A process for each LAST, one after the other, says "NAME STEP" after every step and dies of SIGKILL
after the step LAST, as "m2 7"; one more goes on to the end. Folders that are finished are not made
again. The processes are forks of this one, since importing the trainers takes longer than training.
"""

import os
import signal
import sys
from pathlib import Path

from training_examples import DIALOGUES, PAIRS

import sage_core.training.trainers  # noqa: F401 - before the forks
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


def in_a_process(base: Path, output: Path, last: str) -> None:
    if (child := os.fork()) == 0:
        main(base, output, last)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("ended", status, flush=True)  # noqa: T201


if __name__ == "__main__":
    for last in (*sys.argv[3:], ""):
        in_a_process(Path(sys.argv[1]), Path(sys.argv[2]), last)
