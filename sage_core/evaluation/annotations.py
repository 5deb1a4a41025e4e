"""What can be said of a corpus' annotations without a judge: are they there, and do they fit?

The check is independent of the annotator: the sign of the annotated emotion against the sign of
VADER's score of the utterance (Hutto & Gilbert, 2014). VADER counts words, so an agreement of 1 is
not the aim; one that chance would give means that the emotions say nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sage_core.corpus.sentiment import analyser
from sage_core.evaluation.metrics import Rate
from sage_core.schema import AnnotatedDialogue
from sage_core.states import EMPTY, FIELDS
from sage_core.topics import stand_in

NEUTRAL = 0.05
"""A compound score nearer to zero than this is neutral: VADER's own threshold."""
# Emotions that VADER's lexicon lacks, or gives a sign without having one by themselves.
_SIGNS = {
    "afraid": -1,
    "anticipating": 1,
    "apprehensive": -1,
    "content": 1,
    "nostalgic": 0,
    "sentimental": 0,
    "surprised": 0,
}


@dataclass(frozen=True)
class AnnotationFigures:
    """Figures of all annotated utterances.

    Attributes:
        utterances: how many there are.
        empty: a field's column, and all (no state at all) -> utterances without.
        neutral: utterances to which VADER gives no sign; they are not in the agreement.
        unsigned: other utterances whose emotion is empty, has no sign or is not known to VADER;
            they are not in the agreement either.
        sentiment_agreement: of the rest, those whose emotion has the sign of the utterance.
        topics_said: of all topics, those that share a word with their utterance.
        left_out: dialogues that are not annotated, since an utterance is longer than the
            annotator's context.
    """

    utterances: int
    empty: dict[str, int]
    neutral: int
    unsigned: int
    sentiment_agreement: Rate
    topics_said: Rate
    left_out: int = 0


def annotation_figures(
    dialogues: Sequence[AnnotatedDialogue], left_out: int = 0
) -> AnnotationFigures:
    """The figures of a corpus, and that ``left_out`` of its dialogues are not in it."""
    turns = [turn for dialogue in dialogues for turn in dialogue.turns]
    said = [(_sign_of_utterance(turn.utterance), sign_of_emotion(turn.emotion)) for turn in turns]
    signed = [(utterance, emotion) for utterance, emotion in said if utterance and emotion]
    neutral = sum(utterance == 0 for utterance, _ in said)
    return AnnotationFigures(
        utterances=len(turns),
        empty={
            **{field.column: sum(not field.of(turn) for turn in turns) for field in FIELDS},
            "all": sum(turn.state == EMPTY for turn in turns),
        },
        neutral=neutral,
        unsigned=len(turns) - neutral - len(signed),
        sentiment_agreement=Rate.of(sum(a == b for a, b in signed), len(signed)),
        topics_said=Rate.of(
            sum(len(stand_in(turn.topics, turn.utterance)) for turn in turns),
            sum(len(turn.topics) for turn in turns),
        ),
        left_out=left_out,
    )


def sign_of_emotion(emotion: str | None) -> int:
    """1, -1, or 0 for one that is missing, has no sign or is not known to VADER's lexicon."""
    word = (emotion or "").casefold()
    return _SIGNS[word] if word in _SIGNS else _sign(analyser()(word))


def _sign_of_utterance(utterance: str) -> int:
    compound = analyser()(utterance)
    return 0 if abs(compound) < NEUTRAL else _sign(compound)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
