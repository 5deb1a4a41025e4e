"""Scoring options by the first token, which is all that OpenAI's API shows."""

import math
from collections.abc import Sequence

from sage_core.engines.answer_body import spelled


def option_scores(
    first_tokens: Sequence[tuple[str, float]], options: Sequence[str]
) -> list[float | None]:
    """The log-probability of each option as the first token, all its spellings together (``A``,
    `` A``): those of one option would else be compared with another spelling of the next. None: it
    is not among the tokens. What is no number counts nothing.
    """
    import numpy as np

    spellings: dict[str, list[float]] = {}
    for token, logprob in first_tokens:
        if not math.isnan(logprob) and logprob != math.inf:
            spellings.setdefault(spelled(token), []).append(logprob)
    return [
        float(np.logaddexp.reduce(found)) if (found := spellings.get(spelled(option))) else None
        for option in options
    ]
