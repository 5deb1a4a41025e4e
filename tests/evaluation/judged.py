"""Simulated judges with planted skill, position and length bias."""

from collections.abc import Iterable, Mapping
from typing import Any, overload

import numpy as np

from sage_core.evaluation.ranking import tanh_of_difference
from sage_core.schema import Judgement, Order


@overload
def simulated(
    skill: Mapping[str, float], *, pairs: Iterable[tuple[str, str]], situations: int, seed: int,
    position: float = 0.0,
) -> list[Judgement]: ...  # fmt: skip
@overload
def simulated(
    skill: Mapping[str, float], *, pairs: Iterable[tuple[str, str]], situations: int, seed: int,
    position: float = 0.0, length: float, lengths: Mapping[str, float],
) -> tuple[list[Judgement], Any]: ...  # fmt: skip
def simulated(
    skill: Mapping[str, float],
    *,
    pairs: Iterable[tuple[str, str]],
    situations: int,
    seed: int,
    position: float = 0.0,
    length: float = 0.0,
    lengths: Mapping[str, float] | None = None,
) -> Any:
    """Judgements whose log-odds are the difference of skill (of ``m9``: 0), what the first position
    adds, and ``length`` times tanh of the standardised difference of lengths; with ``lengths``,
    the mean characters of each model, the styles of the conversations too."""
    rng = np.random.default_rng(seed)
    pairs = list(pairs)
    characters = {
        model: rng.normal((lengths or {}).get(model, 0.0), 100, situations).round()
        for model in [*skill, "m9"]
    }
    differences = np.concatenate([characters[b] - characters[a] for a, b in pairs])
    longer = iter(tanh_of_difference(differences))
    rows = []
    for a, b in pairs:
        for item in range(situations):
            by_length = length * next(longer)
            for order in ("ab", "ba"):
                first: Order = order  # type: ignore[assignment]
                odds = skill.get(b, 0.0) - skill.get(a, 0.0) + by_length
                odds += position if first == "ba" else -position
                won = rng.random() < 1 / (1 + np.exp(-odds))
                verdict = "model_b" if won else "model_a"
                rows.append(
                    Judgement(str(item), "j", a, b, first, verdict, "", log_odds=float(odds))
                )
    if lengths is None:
        return rows
    styles = {
        model: {
            str(item): {"characters": float(each), "questions": 0.0, "exclamations": 0.0,
                        "markup": 0.0}
            for item, each in enumerate(characters[model])
        }
        for model in skill
    }  # fmt: skip
    return rows, styles
