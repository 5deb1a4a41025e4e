"""A training method of your own: ORPO (Hong et al., 2024) in one file and one registration.

    python examples/training_method.py

ORPO learns from preference pairs without a reference model. Its loss is the SFT loss on the chosen
reply plus ``weight`` times -log sigmoid of the log odds ratio of chosen and rejected, where the
odds are those of the mean log-probability per token. Here it trains an adapter on a tiny random
model, in a few seconds; the log shows the odds of the chosen replies rising.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sage_core.config.model import ModelConfig
from sage_core.config.section import Section
from sage_core.config.training import LoraConfig, TrainingConfig
from sage_core.engines.loading import prepare_base
from sage_core.schema import Message, PreferencePair
from sage_core.training import methods
from sage_core.training.data import Length, Usable, fitting_pairs
from sage_core.training.job import Job, read_log
from sage_core.training.method import NOT_SCORED, Batch, LossMethod, Tally, log_probs, padded
from sage_core.training.tokens import Encoder

if TYPE_CHECKING:
    import torch

# --- the method -----------------------------------------------------------------------------------


class ORPOConfig(Section):
    """Its settings. The first four are those of every method."""

    epochs: float = 3.0
    learning_rate: float = 1e-2
    batch_size: int = 4
    micro_batch_size: int = 4
    max_length: int = 512
    weight: float = 0.5


@methods.register
class ORPO(LossMethod[PreferencePair, ORPOConfig]):
    """Odds-ratio preference optimisation."""

    name = "orpo"
    example = PreferencePair
    settings = ORPOConfig
    parts = ("chosen", "log_odds")

    def fitting(
        self, examples: Sequence[PreferencePair], settings: ORPOConfig, length: Length
    ) -> Usable[PreferencePair]:
        return fitting_pairs(examples, settings.max_length, length)

    def encode(self, example: PreferencePair, encoder: Encoder) -> dict[str, list[int]]:
        pair = encoder.pair(example)
        return {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}

    def collate(self, rows: Sequence[dict[str, list[int]]], pad: int) -> Batch:
        """(2B, T): the chosen, then the rejected."""
        sequences = [
            {
                "input_ids": row["prompt"] + row[reply],
                "labels": [NOT_SCORED] * len(row["prompt"]) + row[reply],
            }
            for reply in ("chosen", "rejected")
            for row in rows
        ]
        return padded(sequences, input_ids=pad, labels=NOT_SCORED)

    def weight(self, batch: Batch, settings: ORPOConfig) -> torch.Tensor:
        """Pairs."""
        return batch["input_ids"].new_tensor(len(batch["input_ids"]) / 2).float()

    def loss(self, model: Any, batch: Batch, settings: ORPOConfig, tally: Tally) -> torch.Tensor:
        import torch
        from torch.nn.functional import logsigmoid

        scored = (batch["labels"][:, 1:] != NOT_SCORED).sum(1)
        chosen, rejected = (log_probs(model, batch).sum(1) / scored).chunk(2)  # (B,) each
        log_odds = chosen - rejected - (_log1mexp(chosen) - _log1mexp(rejected))
        one = torch.ones_like(chosen, dtype=torch.long)
        tally.add(one, -chosen)
        tally.add(2 * one, log_odds)
        return (-chosen - settings.weight * logsigmoid(log_odds)).sum()


def _log1mexp(log_probability: torch.Tensor) -> torch.Tensor:
    """log(1 - p)."""
    return (-log_probability.exp()).log1p()


# --- a run of it ----------------------------------------------------------------------------------

PAIRS = [
    PreferencePair((Message("user", f"I am {mood} today."),), f"Why {mood}? Tell me.", "OK. Bye.")
    for mood in ("sad", "glad", "tired", "angry", "calm", "proud", "bored", "late")
]


def tiny_model(folder: Path) -> Path:
    """Two Llama layers with random weights, and a tokenizer of single bytes; the folder itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: place for place, token in enumerate([*special, *letters])}
    bpe = Tokenizer(models.BPE(vocabulary, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=special[0],
        bos_token=special[1],
        eos_token=special[2],
    )
    template = resources.files("sage_core.templates").joinpath("chatml.jinja")
    tokenizer.chat_template = template.read_text("utf-8")
    tokenizer.save_pretrained(folder)
    set_seed(0)
    size = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(size).save_pretrained(folder)
    return folder


def main() -> None:
    with TemporaryDirectory() as scratch:
        weights, base, checkpoint = (Path(scratch) / name for name in ("tiny", "m0", "orpo"))
        base.mkdir()
        checkpoint.mkdir()
        tiny_model(weights)
        model = ModelConfig(base=str(weights), dtype="float32", device="cpu")
        prepare_base(base, model)
        job = Job("orpo", base, None, model, LoraConfig(), TrainingConfig(), seed=0)
        methods.train("orpo", checkpoint, job, PAIRS, ORPOConfig())
        for entry in read_log(checkpoint)["history"]:
            print(
                f"step {entry['step']}: loss {entry['loss']:.3f}, "
                f"log odds of chosen against rejected {entry['loss/log_odds']:+.3f}"
            )


if __name__ == "__main__":
    main()
