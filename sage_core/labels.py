"""Annotation from closed lists: score every value, calibrate the scores, take the best.

How likely a model is to say a value depends mostly on how common the word is, so the most likely
value is much the same for every utterance. What tells is how much likelier a value is after this
utterance than after the others of the corpus, the domain-conditional PMI of Holtzman et al. (2021):

    score(v | u) = log p(v | question, u) - mean over all u' of log p(v | question, u')

The second term is the mean over the corpus itself, in place of their one neutral premise and of the
content-free inputs of Zhao et al. (2021). It also takes out that a value of several tokens has a
lower probability than one of a single token, so token log-probabilities are summed, not averaged.

A mean over the corpus also takes out what all its utterances share. The paper keeps only utterances
that VADER finds positive, and among those the mean makes unpleasant emotions as frequent as
pleasant ones. With ``annotation.calibration: situations`` the emotions' mean is over situations,
which are spread evenly over the emotions; it leans towards pleasant ones (``make
bench-annotation`` has both).

Where the scores of the best two values are within ``annotation.margin`` of each other, the field is
left empty (null in the published format).

The corpus is scored in shards (:func:`score`), each on its own; :func:`pick` sees all of it. A
value's mean is over user and assistant turns alike.
"""

from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np

from sage_core.annotation import SPEAKERS, by_dialogue, is_carried, prepare
from sage_core.answers.tally import Tally
from sage_core.config.annotation import AnnotationConfig
from sage_core.config.engine import SamplingConfig
from sage_core.conversation import one_line
from sage_core.engines.answered import answered
from sage_core.engines.base import Engine, Request
from sage_core.errors import ConfigError, DataError, ItemError
from sage_core.schema import (
    AnnotatedDialogue,
    AnnotatedTurn,
    Dialogue,
    Message,
    ScoredDialogue,
    ScoredTurn,
    Situation,
)
from sage_core.states import EMOTION, EMPTY, SCORED, SINGLE, TOPIC, Question, StateField
from sage_core.topics import extract

_SAMPLING = SamplingConfig(temperature=0, top_k=0, repetition_penalty=1, max_new_tokens=32)
REFERENCE = 64
"""Situations whose mean stands for all, spread over the file."""
_TIE = 1e-6  # nats; scores this close differ by rounding only


def check(settings: AnnotationConfig) -> None:
    """Check that the format can carry the listed values.

    Raises:
        ConfigError: it cannot; the message names all of them.
    """
    lists = {f"annotation.{field.plural}": settings.allowed(field) for field in SINGLE}
    if wrong := [value for values in lists.values() for value in values if not is_carried(value)]:
        raise ConfigError(
            f"{' or '.join(lists)} list {wrong}, which State-Action Chain text cannot carry; give "
            "words without braces, keys of the format or spaces around them"
        )


def score(
    dialogues: Sequence[Dialogue],
    engine: Engine,
    settings: AnnotationConfig,
    seed: int,
    on_progress: Callable[[int], None] = lambda count: None,
    tally: Tally | None = None,
) -> list[ScoredDialogue]:
    """The log-probabilities of all listed values for every utterance; ``tally`` counts the
    answers to what is asked before.

    A dialogue with an utterance that the annotator's context has no room for comes back without
    turns, as of :func:`sage_core.annotation.annotate`.
    """
    dialogues = prepare(dialogues, engine, settings, seed, Tally() if tally is None else tally)
    fields = [
        score_field(field, settings.allowed(field), dialogues, engine, settings, seed)
        for field in SCORED
    ]
    scored = []
    for dialogue, *scores in zip(dialogues, *fields, strict=True):
        turns: tuple[ScoredTurn, ...] = ()
        if all(scores):
            turns = tuple(
                ScoredTurn(message.role, message.content, *map(tuple, values))
                for message, *values in zip(dialogue.messages, *scores, strict=True)
            )
        scored.append(ScoredDialogue(dialogue.dialogue_id, turns, dialogue.split))
        on_progress(1)
    return scored


def score_field(
    field: StateField,
    values: Sequence[str],
    dialogues: Sequence[Dialogue],
    engine: Engine,
    settings: AnnotationConfig,
    seed: int,
) -> list[list[list[float]]]:
    """Log-probabilities (U, V) of ``values`` as the answer to the question about ``field``, for the
    U utterances of each dialogue; of none where one is too long for the annotator's context."""
    question = field.question
    assert question is not None
    options = [f" {value}" for value in values]

    def request(dialogue: Dialogue, turn: int, context: int) -> Request:
        return Request(
            request_id=f"annotate/{dialogue.dialogue_id}/{turn}/{field.name}",
            messages=_messages(dialogue, turn, question, context),
            sampling=_SAMPLING,
            seed=seed,
            prefix=_addressed(question.opening, dialogue, turn, context),
        )

    def choose(requests: Sequence[Request]) -> list[list[float]]:
        return engine.choose(requests, [options] * len(requests))

    def ask(requests: Sequence[Request]) -> list[list[float] | ItemError]:
        return answered(choose, requests)

    found = by_dialogue(ask, request, dialogues, settings.context_turns, _has_failed)
    return [[each for each in answers if not isinstance(each, ItemError)] for answers in found]


def _has_failed(answer: list[float] | ItemError) -> bool:
    return isinstance(answer, ItemError)


def _messages(
    dialogue: Dialogue, turn: int, question: Question, context: int
) -> tuple[Message, ...]:
    shown = dialogue.messages[max(0, turn - context) : turn + 1]
    lines = [one_line(message.content) for message in shown]
    if len(shown) > 1:
        lines = [f"{SPEAKERS[said.role]}: {line}" for said, line in zip(shown, lines, strict=True)]
    text = "\n".join(lines)
    return (Message("user", f"{text}\n\n{_addressed(question.text, dialogue, turn, context)}"),)


def _addressed(text: str, dialogue: Dialogue, turn: int, context: int) -> str:
    """The text about whoever speaks: by name where earlier turns are shown."""
    named = min(turn, context) > 0
    who = SPEAKERS[dialogue.messages[turn].role] if named else "this person"
    text = text.format(who=who, whose=f"{who}'s")
    return text[0].upper() + text[1:]


def score_situations(
    situations: Sequence[Situation], engine: Engine, settings: AnnotationConfig, seed: int
) -> list[list[float]]:
    """Log-probabilities (S, V) of the emotions after each situation that the annotator's context
    has room for."""
    dialogues = [
        Dialogue(each.situation_id, "", "", (Message("user", each.text),)) for each in situations
    ]
    found = score_field(EMOTION, settings.emotions, dialogues, engine, settings, seed)
    return [scores for of_situation in found for scores in of_situation]


def calibrated(
    scores: Sequence[Sequence[float]], reference: Sequence[Sequence[float]] | None = None
) -> np.ndarray:
    """Scores (U, V) less each value's mean over ``reference`` (R, V), by default over the
    utterances themselves; see the module.

    Raises:
        DataError: a probability is missing, so that there is no mean.
    """
    table = np.asarray(scores, dtype=float)
    mean = (table if reference is None else np.asarray(reference, dtype=float)).mean(axis=0)
    if not (np.isfinite(table).all() and np.isfinite(mean).all()):
        raise DataError(
            "the annotator gave no probability for some of the listed values; use an engine that "
            "scores every value, of kind 'transformers' or 'vllm'"
        )
    return np.asarray(table - mean)


def pick(
    scored: Sequence[ScoredDialogue],
    settings: AnnotationConfig,
    situations: Sequence[Sequence[float]] | None = None,
) -> list[AnnotatedDialogue]:
    """The states of a whole corpus, from the scores of all its utterances and, where the emotions
    are compared with them, those of ``situations`` (S, V).

    Raises:
        DataError: see :func:`calibrated`.
    """
    turns = [turn for dialogue in scored for turn in dialogue.turns]
    topics = extract(
        [[turn.utterance for turn in dialogue.turns] for dialogue in scored], settings.max_topics
    )
    states = [TOPIC.put(EMPTY, said) for said in topics]
    for field in SCORED:
        scores = [getattr(turn, field.plural) for turn in turns]
        compared = situations if field is EMOTION else None
        best = _best(scores, settings.allowed(field), settings.margin, compared)
        states = [
            field.put(state, () if value is None else (value,))
            for state, value in zip(states, best, strict=True)
        ]
    annotated = iter(
        AnnotatedTurn.of(turn.role, turn.utterance, state)
        for turn, state in zip(turns, states, strict=True)
    )
    return [
        AnnotatedDialogue(
            dialogue.dialogue_id, tuple(islice(annotated, len(dialogue.turns))), dialogue.split
        )
        for dialogue in scored
    ]


def margins(table: np.ndarray) -> np.ndarray:
    """How far (nats) the best value of each row of calibrated scores is ahead of the second."""
    two = np.sort(table, axis=1)[:, -2:]
    return np.asarray(two[:, 1] - two[:, 0])


def _best(
    scores: Sequence[Sequence[float]],
    values: Sequence[str],
    margin: float,
    reference: Sequence[Sequence[float]] | None,
) -> list[str | None]:
    """The best value of each row, or None where the second is as good or within the margin."""
    if not scores:
        return []
    table = calibrated(scores, reference)
    return [
        values[int(best)] if ahead > max(margin, _TIE) else None
        for best, ahead in zip(table.argmax(axis=1), margins(table), strict=True)
    ]
