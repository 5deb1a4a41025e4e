"""All models on one scale, and what a judge's taste for position, length and style adds to it.

One logistic regression without intercept, by statsmodels, of each verdict: whether it names
``model_b``, with a tie as one half. Its columns are

* the two models, +1 for ``model_b`` and -1 for ``model_a``: Bradley and Terry's scores (1952);
* +1 where ``model_b`` is shown first, -1 where ``model_a`` is: the judge's position bias;
* with style control, the differences of the conversations' styles (model_b's less model_a's), each
  over its standard deviation and through tanh, as AlpacaEval 2 does with lengths (Dubois et al.,
  2024). The score is then that at equal styles.

Verdicts about one situation depend on each other, so standard errors are clustered by situation.
A model that always wins has no finite score. So each coefficient has a weak prior, log-F(1, 1),
as data (Greenland and Mansournia, 2015): a model ties once with a virtual one, and a bias ties
once with its absence. It weighs as much as one verdict.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import statsmodels.api as sm
from numpy.typing import NDArray
from statsmodels.tools.sm_exceptions import PerfectSeparationWarning

from sage_core.evaluation.outcomes import Items, Pair
from sage_core.evaluation.styles import STYLES, Styles
from sage_core.evaluation.winrate import SIGNIFICANCE

PREFERRED = {"model_a": 0.0, "tie": 0.5, "model_b": 1.0}
_VIRTUAL = "a virtual model"
_FIRST = "shown first"


@dataclass(frozen=True)
class Score:
    """An effect on the log-odds of a verdict, in nats, with its 95% interval."""

    value: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True)
class Ranking:
    """The scores of one judge.

    Attributes:
        order: the models, the reference first.
        models: log-odds of being preferred to ``reference``, which has 0, without position bias.
        first: what being shown first adds.
        styles: what each style adds, where they are controlled for.
        verdicts: parsed ones, of ``situations`` situations.
    """

    judge: str
    reference: str
    order: tuple[str, ...]
    models: dict[str, Score]
    first: Score
    verdicts: int
    situations: int
    styles: dict[str, Score] = field(default_factory=dict)


def verdict_table(pairs: Mapping[Pair, Items]) -> pd.DataFrame:
    """One row for each parsed verdict: judge, item, a, b, ``first`` (+1: b is shown first, -1: a
    is), ``preferred`` (of b: 0, 1/2 or 1)."""
    rows = [
        (judge, item, a, b, 1.0 if order == "ba" else -1.0, PREFERRED[row.verdict])
        for (judge, a, b), items in pairs.items()
        for item, shown in items.items()
        for order, row in shown.items()
        if row.verdict != "unparsed"
    ]
    return pd.DataFrame(rows, columns=["judge", "item", "a", "b", "first", "preferred"])


def rank(
    verdicts: pd.DataFrame,
    models: Sequence[str] = (),
    *,
    styles: Mapping[str, Styles] | None = None,
) -> list[Ranking]:
    """The scores of each judge, in order of appearance.

    Args:
        verdicts: as :func:`verdict_table` makes them.
        models: their order; the first that was judged is the reference. Others come after them.
        styles: model -> the styles of its conversations, to control for; verdicts on models or
            situations that it lacks are left out.
    """
    if styles is not None:
        verdicts = _with_styles(verdicts, styles)
    return [
        _rank_one(str(judge), rows, models, STYLES if styles is not None else ())
        for judge, rows in verdicts.groupby("judge", sort=False)
    ]


def _rank_one(
    judge: str, rows: pd.DataFrame, order: Sequence[str], styles: Sequence[str]
) -> Ranking:
    judged = list(dict.fromkeys([*rows["a"], *rows["b"]]))
    models = [*(each for each in order if each in judged), *(m for m in judged if m not in order)]
    columns = [*models, _VIRTUAL, _FIRST, *styles]
    design = np.zeros((len(rows), len(columns)))
    line = np.arange(len(rows))
    design[line, rows["b"].map(models.index).to_numpy()] = 1
    design[line, rows["a"].map(models.index).to_numpy()] = -1
    design[:, columns.index(_FIRST)] = rows["first"]
    for style in styles:
        design[:, columns.index(style)] = tanh_of_difference(rows[style].to_numpy())
    priors = _priors(len(models), len(columns))
    groups = pd.factorize(rows["item"])[0]
    fitted = fit_logistic(
        rows["preferred"].to_numpy(),
        # Without the reference's column: scores count from it.
        design[:, 1:],
        priors[:, 1:],
        cov_type="cluster",
        cov_kwds={"groups": np.concatenate([groups, groups.max() + 1 + np.arange(len(priors))])},
    )
    intervals = fitted.conf_int(SIGNIFICANCE)
    scores = {
        column: Score(float(value), float(low), float(high))
        for column, value, (low, high) in zip(columns[1:], fitted.params, intervals, strict=True)
    }
    return Ranking(
        judge=judge,
        reference=models[0],
        order=tuple(models),
        models={models[0]: Score(0.0, 0.0, 0.0), **{each: scores[each] for each in models[1:]}},
        first=scores[_FIRST],
        verdicts=len(rows),
        situations=int(groups.max()) + 1,
        styles={style: scores[style] for style in styles},
    )


def fit_logistic(
    preferred: NDArray[np.float64],
    design: NDArray[np.float64],
    priors: NDArray[np.float64],
    **covariance: Any,
) -> Any:
    """statsmodels' results of a logistic regression without intercept.

    Args:
        preferred: (N,) of each verdict, in [0, 1].
        design: (N, K).
        priors: (P, K), rows that are added with one half as their verdict; they have to identify
            every coefficient.
        covariance: as ``GLM.fit`` takes them; groups are of N + P rows.
    """
    with warnings.catch_warnings():
        # It says that coefficients may not be identified where every verdict is met, as if all
        # are ties. The priors identify them.
        warnings.simplefilter("ignore", PerfectSeparationWarning)
        return sm.GLM(
            np.concatenate([preferred, np.full(len(priors), 0.5)]),
            np.vstack([design, priors]),
            family=sm.families.Binomial(),
        ).fit(use_t=True, **covariance)


def _priors(models: int, columns: int) -> NDArray[np.float64]:
    """The rows of the prior: each model against the virtual one, each bias alone."""
    rows = np.zeros((columns - 1, columns))
    rows[:models, :models] = np.eye(models)
    rows[:models, models] = -1
    rows[models:, models + 1 :] = np.eye(columns - models - 1)
    return rows


def tanh_of_difference(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    """AlpacaEval 2's feature of a difference: tanh of it over its standard deviation (N - 1); 0
    where the difference is always the same, which nothing can be said of."""
    deviation = np.std(difference, ddof=1) if len(difference) > 1 else 0.0
    if deviation <= 1e-12:
        return np.zeros_like(difference, dtype=float)
    found: NDArray[np.float64] = np.tanh(difference / deviation)
    return found


def _with_styles(verdicts: pd.DataFrame, styles: Mapping[str, Styles]) -> pd.DataFrame:
    """Those verdicts whose two conversations are there, with the differences of their styles."""
    of_a, of_b = (
        [
            styles.get(model, {}).get(item)
            for model, item in zip(verdicts[side], verdicts["item"], strict=True)
        ]
        for side in ("a", "b")
    )
    there = [a is not None and b is not None for a, b in zip(of_a, of_b, strict=True)]
    found = verdicts[there].copy()
    pairs = [(a, b) for a, b in zip(of_a, of_b, strict=True) if a is not None and b is not None]
    for style in STYLES:
        found[style] = [b[style] - a[style] for a, b in pairs]
    return found


def unknown_models(pairs: Iterable[Pair], known: Iterable[str]) -> dict[str, list[str]]:
    """Judge -> models that it judged and of which there are no conversations."""
    there = set(known)
    found: dict[str, list[str]] = {}
    for judge, a, b in pairs:
        for model in (a, b):
            if model not in there and model not in found.setdefault(judge, []):
                found[judge].append(model)
    return {judge: models for judge, models in found.items() if models}
