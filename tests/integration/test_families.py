"""The tiny preset from start to end on small random models of four families, each under its own
template; and what cannot be used is refused before any work."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_run import ROOT, SAGE, environment, run_tiny
from tokenizers_of_families import real_tokenizer, trl_template

from benchmarks.small_models import small_model
from sage_core.engines.loading import embedded_gguf

pytestmark = [pytest.mark.integration, pytest.mark.slow]

SIZES = (
    "search.candidates=8",
    "search.situations=4",
    "search.selfplay.sampling.max_new_tokens=24",
    "evaluation.selfplay.sampling.max_new_tokens=24",
    "steering_report.max_new_tokens=24",
)


def _smollm2() -> Any:
    from transformers import AutoTokenizer

    gguf = embedded_gguf()
    assert gguf is not None
    return AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)


def _phi3(folder: Path) -> Any:
    """Phi-3's tokenizer is Llama-2's with marks of its own."""
    tokenizer = real_tokenizer("llama2", folder)
    tokenizer.add_special_tokens(
        {
            "additional_special_tokens": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"],
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
        }
    )
    tokenizer.chat_template = trl_template("phi3")
    return tokenizer


def _with_marks_of(family: str) -> Any:
    """The embedded model's tokenizer with a family's marks and template. With the families' own
    vocabularies, of up to 262,144 tokens, a run would take minutes more; that prompts and masks are
    exact under these is tested in test_own_template.py."""
    tokenizer = _smollm2()
    tokenizer.add_special_tokens(MARKS[family])
    tokenizer.chat_template = trl_template(family)
    return tokenizer


MARKS: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "gemma3": {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"],
    },
    "lfm2": {"bos_token": "<|startoftext|>"},
}


def _tokenizer(family: str, folder: Path) -> Any:
    return _phi3(folder) if family == "phi3" else _with_marks_of(family)


MODEL_TYPES = {"qwen3": "qwen3", "gemma3": "gemma3_text", "phi3": "phi3", "lfm2": "lfm2"}
ENDS = {"qwen3": "<|im_end|>", "gemma3": "<end_of_turn>", "phi3": "<|end|>", "lfm2": "<|im_end|>"}


@pytest.fixture
def fetched(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.config.cache.mkdir("tokenizers")  # type: ignore[union-attr]
    return folder


def save(family: str, fetched: Path, base: Path) -> Path:
    tokenizer = _tokenizer(family, fetched)
    model = small_model(MODEL_TYPES[family], len(tokenizer))
    # The end of a turn is one of many thousand tokens; wide weights make random replies end.
    end = tokenizer.convert_tokens_to_ids(ENDS[family])
    model.get_output_embeddings().weight.data[end] *= 8
    model.config.bos_token_id = tokenizer.bos_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.max_position_embeddings = 2048
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    return base


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that its databases are made once; no two share a stage that a model makes."""
    return tmp_path_factory.mktemp("home")


@pytest.mark.parametrize("family", MODEL_TYPES)
def test_the_whole_method_runs_on(family: str, fetched: Path, home: Path, tmp_path: Path) -> None:
    base = save(family, fetched, tmp_path / "base")
    result = run_tiny(home, f"model.base={base}", *SIZES)
    assert {"sft raw", "sft m3", "dpo", "report"} <= set(result["made"])


def test_a_template_that_loses_a_role_is_refused_before_any_work(
    fetched: Path, tmp_path: Path
) -> None:
    base = save("lfm2", fetched, tmp_path / "base")
    template = base / "chat_template.jinja"
    template.write_text("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    began = time.monotonic()
    done = subprocess.run(
        [*SAGE, "run", "--preset", "tiny", "--set", f"model.base={base}"],
        cwd=ROOT,
        env=environment(tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    assert "template" in done.stderr
    assert time.monotonic() - began < 120
    made = list((tmp_path / "home").rglob("manifest.json"))
    assert not [path for path in made if "corpus" in json.loads(path.read_text())["stage"]]
