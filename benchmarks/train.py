"""``make bench-train``: SFT and DPO against TRL's trainers as TRL ships them.

All train the same fresh LoRA on the embedded model, on the same conversations, eight a step, in
bfloat16 where the processor has instructions for it, else in float32. TRL gets what a user has to
give it: the model, the adapter, the data, our chat template, and for SFT ``assistant_only_loss``,
so that all learn from the same tokens; the loss of the first step shows that they do. The rest are
its defaults. Useful tokens are those that are no padding, a prompt counting for both replies of its
pair; seconds are of the trainer's steps, and for DPO with the reference's log-probabilities,
computed before, on top. Each trainer has a process of its own.

    python -m benchmarks.train [SFT_STEPS DPO_STEPS]
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.harness import Benchmark, alone, peak_memory
from sage_core.config.corpus import CorpusConfig
from sage_core.config.model import ModelConfig
from sage_core.config.training import DPOConfig, LoraConfig, SFTConfig, TrainingConfig
from sage_core.corpus.sources import read, sources
from sage_core.engines.loading import dtype_of, load_model, load_tokenizer, prepare_base
from sage_core.schema import Dialogue, Message, PreferencePair, TrainingDialogue
from sage_core.training.data import fitting_dialogues, fitting_pairs
from sage_core.training.job import Job, read_log
from sage_core.training.tokens import Encoder

STEPS = (6, 4)  # of SFT, of DPO
BATCH = 8
MAX_LENGTH = 1024  # TRL's default
TARGETS = {"sft": 1.8, "dpo": 1.3}
SAME_LOSS = 0.02  # of the first step, relative: bfloat16 rounds otherwise in another order
MODEL = ModelConfig(device="cpu")
LORA = LoraConfig(target_modules=("q_proj", "v_proj"))
SEED = 0


@dataclass
class Measured:
    """What one trainer did: useful tokens, seconds, peak MB, and the loss of its first step."""

    tokens: int
    seconds: float
    peak_mb: float
    first_loss: float

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds


def main() -> None:
    sft_steps, dpo_steps = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else STEPS
    benchmark = Benchmark("train", note=f"In {dtype_of(MODEL)}.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alone(prepare, folder)
        for kind, steps in (("sft", sft_steps), ("dpo", dpo_steps)):
            trl = alone(measure, f"trl_{kind}", folder, steps)
            ours = alone(measure, f"our_{kind}", folder, steps)
            report(benchmark, kind, steps, ours, trl)
    benchmark.finish()


def report(benchmark: Benchmark, kind: str, steps: int, ours: Measured, trl: Measured) -> None:
    ratio = ours.speed / trl.speed
    off = abs(ours.first_loss / trl.first_loss - 1)
    same = ours.tokens == trl.tokens and off <= SAME_LOSS
    benchmark.add(
        f"{kind.upper()}, {steps} steps of {BATCH}, {ours.tokens} tokens: useful tokens/s; peak MB;"
        f" first loss {ours.first_loss:.3f} against {trl.first_loss:.3f}",
        f"{ours.speed:.0f}; {ours.peak_mb:.0f} MB",
        f"{trl.speed:.0f}; {trl.peak_mb:.0f} MB (TRL)",
        f"{ratio:.2f}x; {ours.peak_mb / trl.peak_mb:.2f}x",
        f">= {TARGETS[kind]:g}x, same tokens, loss within {SAME_LOSS:.0%}",
        ratio >= TARGETS[kind] and same,
    )


def prepare(folder: Path) -> None:
    """m0 in a folder."""
    (folder / "m0").mkdir()
    prepare_base(folder / "m0", MODEL)


def measure(trainer: str, folder: Path, steps: int) -> Measured:
    """Train with one of the trainers below."""
    with peak_memory() as peak:
        tokens, seconds, first_loss = globals()[trainer](folder, steps)
    return Measured(tokens, seconds, peak[0], first_loss)


# --- the data: packaged conversations, read by the project's own reader ---------------------------


def conversations(number: int) -> list[tuple[Message, ...]]:
    """Conversations of 4 to 24 turns that end on the agent, drawn once for all trainers."""
    config = CorpusConfig()
    (source,) = sources(config)
    rows = [row.messages for row in read(source, config) if isinstance(row, Dialogue)]
    fitting = [row[: len(row) - len(row) % 2] for row in rows if 4 <= len(row) <= 24]
    return list(islice(Random(SEED).sample(fitting, len(fitting)), number))


def dialogues(tokenizer: Any, steps: int) -> list[TrainingDialogue]:
    found = [TrainingDialogue(messages) for messages in conversations(steps * BATCH)]
    return fitting_dialogues(found, MAX_LENGTH, Encoder(tokenizer).length).rows


def pairs(tokenizer: Any, steps: int) -> list[PreferencePair]:
    """What was said against what was said at the end of another conversation."""
    rows = conversations(steps * BATCH)
    others = rows[1:] + rows[:1]
    found = [
        PreferencePair(row[:-1], row[-1].content, other[-1].content)
        for row, other in zip(rows, others, strict=True)
    ]
    return fitting_pairs(found, MAX_LENGTH, Encoder(tokenizer).length).rows


def size(tokenizer: Any, rows: Sequence[TrainingDialogue] | Sequence[PreferencePair]) -> int:
    """Useful tokens of all rows."""
    length = Encoder(tokenizer).length
    total = 0
    for row in rows:
        if isinstance(row, TrainingDialogue):
            total += length(row.messages)
        else:
            total += sum(
                length((*row.prompt, Message("assistant", reply)))
                for reply in (row.chosen, row.rejected)
            )
    return total


# --- ours -----------------------------------------------------------------------------------------


def our_sft(folder: Path, steps: int) -> tuple[int, float, float]:
    from sage_core.training.sft import train_sft

    tokenizer = load_tokenizer(folder / "m0")
    rows = dialogues(tokenizer, steps)
    settings = SFTConfig(
        epochs=1, batch_size=BATCH, micro_batch_size=BATCH, learning_rate=2e-5,
        max_length=MAX_LENGTH,
    )  # fmt: skip
    output, clock = folder / "our_sft", Clock()
    output.mkdir()
    with clock:
        train_sft(output, job(folder, None), rows, settings)
    return size(tokenizer, rows), clock.seconds, first_loss(output)


def our_dpo(folder: Path, steps: int) -> tuple[int, float, float]:
    from sage_core.training import adapters
    from sage_core.training.dpo import train_dpo

    tokenizer = load_tokenizer(folder / "m0")
    rows = pairs(tokenizer, steps)
    parent, output, clock = folder / "parent", folder / "our_dpo", Clock()
    for each in (parent, output):
        each.mkdir()
    start = job(folder, None)
    adapters.start(start).save_pretrained(parent, save_embedding_layers=False)  # says nothing yet
    settings = DPOConfig(
        epochs=1, batch_size=BATCH, micro_batch_size=BATCH, learning_rate=1e-6, sft_weight=0,
        max_length=MAX_LENGTH,
    )  # fmt: skip
    with clock:
        train_dpo(output, job(folder, parent), rows, settings)
    return size(tokenizer, rows), clock.seconds, first_loss(output)


def job(folder: Path, parent: Path | None) -> Job:
    return Job("m1", folder / "m0", parent, MODEL, LORA, TrainingConfig(save_steps=0), SEED)


def first_loss(output: Path) -> float:
    return float(read_log(output)["history"][0]["loss"])


# --- TRL's ----------------------------------------------------------------------------------------


def trl_sft(folder: Path, steps: int) -> tuple[int, float, float]:
    from datasets import Dataset
    from trl import SFTConfig as TrlConfig
    from trl import SFTTrainer

    tokenizer = load_tokenizer(folder / "m0")
    rows = dialogues(tokenizer, steps)
    clock = Clock()
    with clock:
        trainer = SFTTrainer(
            model=load_model(folder / "m0", MODEL),
            args=TrlConfig(
                **common(folder), assistant_only_loss=True, per_device_train_batch_size=BATCH
            ),
            processing_class=tokenizer,
            train_dataset=Dataset.from_list([asdict(row) for row in rows]),
            peft_config=adapter(),
        )
        trainer.train()
    return size(tokenizer, rows), clock.seconds, trainer.state.log_history[0]["loss"]


def trl_dpo(folder: Path, steps: int) -> tuple[int, float, float]:
    from datasets import Dataset
    from trl import DPOConfig as TrlConfig
    from trl import DPOTrainer

    tokenizer = load_tokenizer(folder / "m0")
    rows = pairs(tokenizer, steps)
    clock = Clock()
    with clock:
        trainer = DPOTrainer(
            model=load_model(folder / "m0", MODEL),
            args=TrlConfig(**common(folder), per_device_train_batch_size=BATCH),
            processing_class=tokenizer,
            train_dataset=Dataset.from_list([conversational(row) for row in rows]),
            peft_config=adapter(),
        )
        trainer.train()
    return size(tokenizer, rows), clock.seconds, trainer.state.log_history[0]["loss"]


def common(folder: Path) -> dict[str, Any]:
    """No checkpoints and no GPU; the first loss is to be seen."""
    return {
        "output_dir": str(folder / "trl"),
        "num_train_epochs": 1,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "bf16": dtype_of(MODEL) == "bfloat16",  # TRL's default, which emulates it elsewhere
        "disable_tqdm": True,
        "seed": SEED,
        "data_seed": SEED,
    }


def adapter() -> Any:
    from peft import LoraConfig as PeftConfig

    return PeftConfig(
        r=LORA.rank,
        lora_alpha=LORA.alpha,
        lora_dropout=LORA.dropout,
        target_modules=list(LORA.target_modules),
        task_type="CAUSAL_LM",
    )


def conversational(pair: PreferencePair) -> dict[str, Any]:
    return {
        "prompt": [asdict(message) for message in pair.prompt],
        "chosen": [asdict(Message("assistant", pair.chosen))],
        "rejected": [asdict(Message("assistant", pair.rejected))],
    }


class Clock:
    """Seconds of all passes of the model: those of the trainer's steps, and of the reference's
    log-probabilities before; not of loading, imports and tokenising, which all trainers share."""

    def __enter__(self) -> "Clock":
        from transformers import Trainer
        from trl import DPOTrainer

        self.seconds = 0.0
        self._patched = [(Trainer, "_inner_training_loop"), (DPOTrainer, "_precompute_ref_logps")]
        self._plain = [getattr(owner, name) for owner, name in self._patched]
        for (owner, name), plain in zip(self._patched, self._plain, strict=True):
            setattr(owner, name, self._timed(plain))
        return self

    def __exit__(self, *error: object) -> None:
        for (owner, name), plain in zip(self._patched, self._plain, strict=True):
            setattr(owner, name, plain)

    def _timed(self, plain: Any) -> Any:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            began = time.perf_counter()
            try:
                return plain(*arguments, **keywords)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


if __name__ == "__main__":
    main()
