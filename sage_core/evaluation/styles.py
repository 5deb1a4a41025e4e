"""Marks of style that judges are known to reward, of the agent's side of a conversation."""

import re
from collections.abc import Callable, Iterable, Mapping

from sage_core.sac import utterance_of
from sage_core.schema import Trajectory

Styles = Mapping[str, Mapping[str, float]]
"""Situation id -> mark of style -> how much of it the conversation has."""

LENGTH = "characters"
_MARKUP = re.compile(r"^\s*(?:[-*•]|\d+[.)]|#+)\s|\*\*|`", re.MULTILINE)  # lists, headings, bold
_MARKS: dict[str, Callable[[str], float]] = {
    LENGTH: len,
    "questions": lambda text: text.count("?"),
    "exclamations": lambda text: text.count("!"),
    "markup": lambda text: len(_MARKUP.findall(text)),
}
STYLES = tuple(_MARKS)


def styles_of(trajectories: Iterable[Trajectory]) -> Styles:
    """The marks of style of each situation's conversation; states are not counted."""
    return {each.situation_id: text_styles(said(each)) for each in trajectories}


def text_styles(text: str) -> dict[str, float]:
    """The marks of style of a text."""
    return {name: float(count(text)) for name, count in _MARKS.items()}


def said(trajectory: Trajectory) -> str:
    """All that the agent said, one utterance a line."""
    return "\n".join(
        utterance_of(turn.content) for turn in trajectory.turns if turn.role == "assistant"
    )
