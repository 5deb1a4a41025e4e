"""The polarity of emotions: whether it is good or bad to feel so."""

from sage_core.corpus.sentiment import analyser

POSITIVE = frozenset(
    ("anticipating", "caring", "confident", "content", "excited", "faithful", "grateful",
     "hopeful", "impressed", "joyful", "prepared", "proud", "trusting")
)  # fmt: skip
NEGATIVE = frozenset(
    ("afraid", "angry", "annoyed", "anxious", "apprehensive", "ashamed", "devastated",
     "disappointed", "disgusted", "embarrassed", "furious", "guilty", "jealous", "lonely", "sad",
     "terrified")
)  # fmt: skip
MIXED = frozenset(("nostalgic", "sentimental", "surprised"))
"""Together the 32 labels of EmpatheticDialogues (Rashkin et al. 2019). The division is ours."""


def polarity(emotion: str) -> int:
    """1, -1, or 0 for mixed and for none; a word that is not one of the 32 labels has the sign of
    its VADER score."""
    word = emotion.strip().casefold()
    if word in POSITIVE:
        return 1
    if word in NEGATIVE:
        return -1
    return 0 if word in MIXED else sign(analyser()(word))


def sign(compound: float) -> int:
    """The sign of a VADER compound score; within 0.05 of zero it is neutral, as its authors have
    it."""
    return (compound >= 0.05) - (compound <= -0.05)
