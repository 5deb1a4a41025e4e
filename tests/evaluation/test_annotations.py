"""The figures of annotated dialogues, by hand."""

import pytest

from sage_core.evaluation.annotations import annotation_figures, sign_of_emotion
from sage_core.schema import AnnotatedDialogue, AnnotatedTurn


def turn(utterance: str, emotion: str | None, *topics: str) -> AnnotatedTurn:
    return AnnotatedTurn("user", utterance, None, emotion, topics)


def test_figures() -> None:
    """Of eight utterances two are neutral, and two more have no emotion of a known sign."""
    turns = (
        turn("I love this wonderful bus!", "joyful", "bus"),
        turn("I love this wonderful bus!", "sad", "jazz", "wonderful buses"),
        turn("This is horrible, I hate it.", "afraid"),
        turn("This is horrible, I hate it.", "content"),
        turn("I love it!", "surprised"),
        turn("I love it!", None),
        turn("The bus is a vehicle.", "joyful"),
        turn("The bus is a vehicle.", None),
    )
    found = annotation_figures(
        [AnnotatedDialogue("d", turns[:3]), AnnotatedDialogue("e", turns[3:])]
    )
    assert (found.utterances, found.neutral, found.unsigned) == (8, 2, 2)
    assert (found.sentiment_agreement.hits, found.sentiment_agreement.n) == (2, 4)
    assert (found.topics_said.hits, found.topics_said.n) == (1, 3)
    assert found.empty == {"motivation": 8, "emotion": 2, "topics": 6, "all": 2}
    nothing = annotation_figures([])
    assert nothing.sentiment_agreement.value is None


@pytest.mark.parametrize(
    ("emotion", "sign"),
    [("Joyful", 1), ("terrified", -1), ("content", 1), ("nostalgic", 0), ("qwerty", 0), (None, 0),
     ("", 0), ("very happy", 1)],
)  # fmt: skip
def test_signs(emotion: str | None, sign: int) -> None:
    assert sign_of_emotion(emotion) == sign
