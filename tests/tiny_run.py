"""Runs of the tiny preset, as a user starts them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from small_models import small_llama

SAGE = [sys.executable, "-m", "flows.cli"]
ROOT = Path(__file__).parents[1]
# The small base's states are long: with less room no reply ends, and nothing can be preferred.
ROOM: dict[str, Any] = {
    "model": {"max_context": 2048},
    "search": {"selfplay": {"sampling": {"max_state_tokens": 400}}},
    "evaluation": {"selfplay": {"sampling": {"max_state_tokens": 400}}},
    "dpo": {"max_length": 1024},
}


def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    return {**kept, "SAGE_HOME": str(home)}


def small_base(folder: Path) -> Path:
    """A base model of two random layers with the embedded model's tokenizer: every stage is real,
    and none takes long. For tests of what lies around the stages."""
    from transformers import AutoTokenizer

    from sage_core.engines.loading import embedded_gguf

    gguf = embedded_gguf()
    assert gguf is not None
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    small_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def overrides(settings: Iterable[str]) -> list[str]:
    """Arguments for settings, each KEY=VALUE."""
    return [part for each in settings for part in ("--set", each)]


def settings_of(advanced: dict[str, Any]) -> list[str]:
    """What the form has under "advanced", as settings, each KEY=VALUE."""
    from flows import advanced as form

    return list(form.overrides(form.Advanced.model_validate(advanced)))


def run_tiny(home: Path, *settings: str) -> dict[str, Any]:
    """`sage run --preset tiny --json` with ``settings``, each KEY=VALUE; returns its result. Bars,
    notes and deprecations of libraries are not for its reader."""
    done = subprocess.run(
        [*SAGE, "run", "--preset", "tiny", "--json", *overrides(settings)],
        cwd=ROOT,
        env=environment(home),
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    noise = re.findall(r".*(?:it/s\]|Warning:|\[transformers\]).*", done.stderr)
    assert not noise, noise
    result: dict[str, Any] = json.loads(done.stdout)
    return result
