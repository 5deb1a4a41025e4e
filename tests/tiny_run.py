"""Real runs of the tiny preset, as a user starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

SAGE = [sys.executable, "-m", "flows.cli"]
ROOT = Path(__file__).parents[1]


def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    return {**kept, "SAGE_HOME": str(home)}


def small_base(folder: Path) -> Path:
    """A base model of two random layers with the embedded model's tokenizer: every stage is real,
    and none takes long. For tests of what lies around the stages."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from sage_core.engines.loading import embedded_gguf

    gguf = embedded_gguf()
    assert gguf is not None
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
            initializer_range=0.3,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run_tiny(home: Path, *settings: str) -> dict[str, Any]:
    """`sage run --preset tiny --json` with ``settings``, each KEY=VALUE; returns its result."""
    overrides = [part for each in settings for part in ("--set", each)]
    done = subprocess.run(
        [*SAGE, "run", "--preset", "tiny", "--json", *overrides],
        cwd=ROOT,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result
