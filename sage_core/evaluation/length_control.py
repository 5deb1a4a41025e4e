"""The win rate that a pair would have if its replies were equally long.

AlpacaEval 2's form (Dubois et al., 2024, "Length-Controlled AlpacaEval"): an L1-penalised logistic
regression without intercept of the preference for ``model_b`` on a constant and tanh of the
standardised difference of lengths in characters, its penalty chosen by five-fold cross-validation;
the rate is its prediction at no difference. It is a variant: AlpacaEval's third term, the
difficulty of each instruction, exists for its own 805 instructions only and is left out, as in its
own setting ``length_controlled_minimal``.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import GroupKFold

from sage_core.evaluation.metrics import Rate
from sage_core.evaluation.outcomes import Items, Pair, outcome
from sage_core.evaluation.ranking import PREFERRED, fit_logistic, tanh_of_difference
from sage_core.evaluation.styles import LENGTH, Styles
from sage_core.evaluation.winrate import SIGNIFICANCE

VARIANT = "AlpacaEval 2's, without its term for the difficulty of an instruction"
_FOLDS = 5
_PENALTIES = 10  # values of C from 1e-4 to 1e4, as in AlpacaEval


@dataclass(frozen=True)
class LengthControlled:
    """Shares of items that go to ``model_b``, a tie one half, in [0, 1].

    Attributes:
        rate: as judged.
        controlled: at equal lengths; None below five items, or if all verdicts are the same.
        ci_low, ci_high: 95% interval of ``controlled``, from the same regression without the L1
            penalty and with a weak prior (:mod:`sage_core.evaluation.ranking`).
        longer: of the items that a model won, those that went to the one with more characters.
    """

    judge: str
    model_a: str
    model_b: str
    n: int
    rate: float
    controlled: float | None
    ci_low: float | None
    ci_high: float | None
    longer: Rate


def length_control(
    pairs: Mapping[Pair, Items], styles: Mapping[str, Styles]
) -> list[LengthControlled]:
    """The length-controlled win rate of each pair whose conversations are there."""
    found = []
    for (judge, a, b), items in pairs.items():
        outcomes = {item: outcome(shown) for item, shown in items.items()}
        there = [
            item
            for item, each in outcomes.items()
            if each != "unparsed" and all(item in styles.get(model, {}) for model in (a, b))
        ]
        if not there:
            continue
        preferred = np.array([PREFERRED[outcomes[item]] for item in there])
        longer = np.array([styles[b][item][LENGTH] - styles[a][item][LENGTH] for item in there])
        decided = (preferred != 0.5) & (longer != 0)
        won = int(np.sum((preferred[decided] == 1) == (longer[decided] > 0)))
        found.append(
            LengthControlled(
                judge, a, b, len(there), float(preferred.mean()),
                *_controlled(preferred, longer), longer=Rate.of(won, int(decided.sum())),
            )
        )  # fmt: skip
    return found


def _controlled(
    preferred: NDArray[np.float64], longer: NDArray[np.float64]
) -> tuple[float | None, float | None, float | None]:
    """The rate at equal lengths and its interval."""
    if len(preferred) < _FOLDS or len(set(preferred.tolist())) < 2:
        return None, None, None
    rate = controlled_rate(preferred, longer)
    design = np.column_stack([np.ones(len(longer)), tanh_of_difference(longer)])
    fitted = fit_logistic(preferred, design, np.eye(2), cov_type="HC1")
    low, high = expit(fitted.conf_int(SIGNIFICANCE)[0])
    return rate, float(low), float(high)


def controlled_rate(preferred: ArrayLike, longer: ArrayLike) -> float:
    """AlpacaEval 2's length-controlled win rate, without difficulties.

    Args:
        preferred: (N,) preference for ``model_b`` of each item, in [0, 1]; N is 5 at least.
        longer: (N,) characters of ``model_b``'s replies less those of ``model_a``'s.
    """
    share = np.asarray(preferred, dtype=float)
    length = tanh_of_difference(np.asarray(longer, dtype=float))
    design = np.column_stack([length, np.ones(len(length))])
    # A preference p is one row of weight p for model_b and one of weight 1 - p for model_a.
    items = np.tile(np.arange(len(share)), 2)
    regression = LogisticRegressionCV(
        Cs=_PENALTIES,
        cv=list(GroupKFold(_FOLDS).split(items, groups=items)),
        scoring="neg_log_loss",
        l1_ratios=(1,),
        solver="liblinear",
        fit_intercept=False,
        random_state=123,
        use_legacy_attributes=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        regression.fit(
            np.vstack([design, design]),
            np.repeat([1, 0], len(share)),
            sample_weight=np.concatenate([share, 1 - share]),
        )
    return float(regression.predict_proba([[0.0, 1.0]])[0, 1])
