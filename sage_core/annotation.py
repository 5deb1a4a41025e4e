"""Annotation: an LLM writes down the state (:mod:`sage_core.states`) behind every utterance.

Departures from the paper's release: one request per utterance, with the turns before it as
context, instead of one per dialogue, and the answer is decoded under a JSON schema, so that a
state is well formed whatever the model. The readable rewrite and the bridging question are
separate requests and off by default. How values are chosen from closed lists instead is in
:mod:`sage_core.labels`.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from sage_core.config.annotation import AnnotationConfig
from sage_core.config.engine import SamplingConfig
from sage_core.engines.answered import Answer, answered
from sage_core.engines.base import Constraint, Engine, Request
from sage_core.engines.grammar import json_schema
from sage_core.errors import ContextError, StateFormatError
from sage_core.languages import asks, is_question
from sage_core.sac import AGENT, USER, StateAction, render_state
from sage_core.schema import AnnotatedDialogue, AnnotatedTurn, Dialogue, Message
from sage_core.states import EMPTY, EXAMPLES, FIELDS, REQUIRED, SINGLE, TOPIC, StateField
from sage_core.topics import stand_in

_INSTRUCTIONS = (
    "You label utterances of conversations. For the last utterance, write {fields}. Use one or two "
    "lower-case words for each."
)
_REWRITE = (
    "Correct the spelling and grammar of the message, and keep its meaning, tone and length. "
    "Answer with the corrected message only."
)
_BRIDGE = (
    "Write one short question that B could add at the end of its last message, so that A's next "
    "message follows naturally. Answer with the question only."
)
_WORD = r"^[a-z][a-z'-]{1,15}( [a-z][a-z'-]{1,15})?$"
SPEAKERS = {"user": "A", "assistant": "B"}
_TEXT_TOKENS = 120
_STATE_TOKENS = 64


def annotate(
    dialogues: Sequence[Dialogue],
    engine: Engine,
    config: AnnotationConfig,
    seed: int,
    on_progress: Callable[[int], None] = lambda count: None,
) -> list[AnnotatedDialogue]:
    """Give every utterance of ``dialogues`` a state.

    A dialogue with an utterance that the annotator's context has no room for, even without the
    turns before it, comes back without turns.
    """
    dialogues = prepare(dialogues, engine, config, seed)
    sampling = _sampling(config, _STATE_TOKENS)
    constraint = _schema(config)

    def request(dialogue: Dialogue, turn: int, context: int) -> Request:
        return Request(
            request_id=f"annotate/{dialogue.dialogue_id}/{turn}",
            messages=_state_prompt(dialogue, turn, context, config),
            sampling=sampling,
            seed=seed,
            constraint=constraint,
        )

    annotated = []
    answers = by_dialogue(engine.generate, request, dialogues, config.context_turns)
    for dialogue, found in zip(dialogues, answers, strict=True):
        turns = []
        before = ""
        for message, completions in zip(dialogue.messages, found, strict=bool(found)):
            state = read_state(completions[0].text)
            if config.topics == "extracted":
                said = stand_in(TOPIC.of(state), message.content, before)
                state = TOPIC.put(state, said)
            before = message.content
            turns.append(AnnotatedTurn.of(message.role, message.content, state))
        annotated.append(AnnotatedDialogue(dialogue.dialogue_id, tuple(turns), dialogue.split))
        on_progress(1)
    return annotated


def by_dialogue(
    ask: Callable[[Sequence[Request]], Sequence[Answer]],
    request: Callable[[Dialogue, int, int], Request],
    dialogues: Sequence[Dialogue],
    context: int,
) -> Iterator[list[Answer]]:
    """The answers to all utterances of each dialogue; none for one with an utterance that is too
    long for the annotator's context.

    Args:
        request: of a dialogue, a turn, and how many turns before it are shown: ``context``, or 0
            where these are too long.
    """
    turns = [(each, turn) for each in dialogues for turn in range(len(each.messages))]
    answers = answered(ask, [request(*place, context) for place in turns])
    late = [number for number, each in enumerate(answers) if isinstance(each, ContextError)]
    again = answered(ask, [request(*turns[number], 0) for number in late]) if context else []
    for number, answer in zip(late, again, strict=False):
        answers[number] = answer
    rest = iter(answers)
    for dialogue in dialogues:
        of_dialogue = list(islice(rest, len(dialogue.messages)))
        found = [each for each in of_dialogue if not isinstance(each, ContextError)]
        yield found if len(found) == len(of_dialogue) else []


def prepare(
    dialogues: Sequence[Dialogue], engine: Engine, config: AnnotationConfig, seed: int
) -> Sequence[Dialogue]:
    """The dialogues with the changes to their utterances that ``config`` asks for."""
    if config.rewrite:
        dialogues = _rewrite(dialogues, engine, config, seed)
    if config.bridging_question:
        dialogues = _bridge(dialogues, engine, config, seed)
    return dialogues


def read_state(text: str) -> StateAction:
    """An annotator's answer as a state that the text format can carry.

    An answer cut off by its length limit, or in another shape, gives no state at all; values that
    the format cannot carry, and values that a list repeats, are left out.
    """
    try:
        answer = json.loads(text)
        given = [field for field in FIELDS if field in REQUIRED or field.column in answer]
        written = [answer[field.column] for field in given]
    except (ValueError, KeyError, TypeError):
        return EMPTY
    state = EMPTY
    for field, value in zip(given, written, strict=True):
        if field.many and not isinstance(value, list):
            return EMPTY
        state = field.put(state, _carried_values(field, value))
    return state


def write_state(state: StateAction) -> str:
    """The annotator's answer for a state, such as :func:`read_state` reads."""
    values = {field.column: field.of(state) for field in FIELDS}
    single = {field.column: next(iter(values[field.column]), None) for field in SINGLE}
    return json.dumps(values | single)


def is_carried(value: str) -> bool:
    """Whether the text format can carry a value in every field of one value."""
    return all(_is_carried(field, (value,)) for field in SINGLE)


def _carried_values(field: StateField, written: Any) -> tuple[str, ...]:
    """What the format can carry of the annotator's answer for one field."""
    if not field.many:
        return (written,) if isinstance(written, str) and _is_carried(field, (written,)) else ()
    values: tuple[str, ...] = ()
    for value in dict.fromkeys(map(str, written)):
        # Among the others, since a value harmless alone may spell a key behind their comma.
        if _is_carried(field, (*values, value)):
            values = (*values, value)
    return values


def _is_carried(field: StateField, values: tuple[str, ...]) -> bool:
    try:
        for role in (USER, AGENT):  # a value may spell a key of one role only
            render_state(field.put(EMPTY, values), role.written)
    except StateFormatError:
        return False
    return True


def _sampling(config: AnnotationConfig, max_new_tokens: int) -> SamplingConfig:
    return SamplingConfig(
        temperature=config.temperature,
        top_k=0,
        repetition_penalty=1,
        max_new_tokens=max_new_tokens,
    )


def _schema(config: AnnotationConfig) -> Constraint:
    def of(field: StateField) -> dict[str, object]:
        word: dict[str, object] = {"type": "string", "pattern": _WORD}
        if field.many:
            return {"type": "array", "items": word, "minItems": 1, "maxItems": config.most(field)}
        allowed = config.allowed(field)
        return {"type": "string", "enum": list(allowed)} if allowed else word

    return json_schema({field.column: of(field) for field in FIELDS})


def _instructions(config: AnnotationConfig) -> str:
    asked = [f"{field.asked.format(most=config.most(field))} ({field.column})" for field in FIELDS]
    lists = [
        f" {field.plural.capitalize()}: {', '.join(config.allowed(field))}."
        for field in FIELDS
        if config.allowed(field)
    ]
    fields = f"{', '.join(asked[:-1])}, and {asked[-1]}"
    return _INSTRUCTIONS.format(fields=fields) + "".join(lists)


def _state_prompt(
    dialogue: Dialogue, turn: int, context: int, config: AnnotationConfig
) -> tuple[Message, ...]:
    return (
        Message("system", _instructions(config)),
        *_examples(),
        Message("user", transcript(dialogue.messages[: turn + 1], context + 1)),
    )


def _examples() -> Iterator[Message]:
    for number, shown in enumerate(EXAMPLES):
        state = EMPTY
        for field in FIELDS:
            state = field.put(state, field.examples[number])
        yield Message("user", shown)
        yield Message("assistant", write_state(state))


def _rewrite(
    dialogues: Sequence[Dialogue], engine: Engine, config: AnnotationConfig, seed: int
) -> list[Dialogue]:
    requests = [
        Request(
            request_id=f"rewrite/{dialogue.dialogue_id}/{turn}",
            messages=(Message("system", _REWRITE), Message("user", message.content)),
            sampling=_sampling(config, _TEXT_TOKENS),
            seed=seed,
        )
        for dialogue in dialogues
        for turn, message in enumerate(dialogue.messages)
    ]
    answers = iter(answered(engine.generate, requests))

    def rewritten(message: Message) -> Message:
        answer = next(answers)
        if isinstance(answer, ContextError):
            return message
        completion = answer[0]
        text = completion.text.strip()
        return (
            message
            if completion.finish_reason == "length" or not text
            else Message(message.role, text)
        )

    return [
        replace(dialogue, messages=tuple(rewritten(message) for message in dialogue.messages))
        for dialogue in dialogues
    ]


def _bridge(
    dialogues: Sequence[Dialogue], engine: Engine, config: AnnotationConfig, seed: int
) -> list[Dialogue]:
    """Add a question to each reply that asks none and is followed by another user turn."""
    places = [
        (number, turn)
        for number, dialogue in enumerate(dialogues)
        for turn, message in enumerate(dialogue.messages[:-1])
        if message.role == "assistant" and not asks(message.content)
    ]
    requests = [
        Request(
            request_id=f"bridge/{dialogues[number].dialogue_id}/{turn}",
            messages=(
                Message("system", _BRIDGE),
                Message(
                    "user",
                    transcript(dialogues[number].messages[: turn + 1], config.context_turns + 1)
                    + f"\n\nA's next message: {dialogues[number].messages[turn + 1].content}",
                ),
            ),
            sampling=_sampling(config, _TEXT_TOKENS),
            seed=seed,
        )
        for number, turn in places
    ]
    bridged = [list(dialogue.messages) for dialogue in dialogues]
    for (number, turn), answer in zip(places, answered(engine.generate, requests), strict=True):
        question = "" if isinstance(answer, ContextError) else answer[0].text.strip()
        if is_question(question):
            message = bridged[number][turn]
            bridged[number][turn] = Message(message.role, f"{message.content} {question}")
    return [
        replace(dialogue, messages=tuple(messages))
        for dialogue, messages in zip(dialogues, bridged, strict=True)
    ]


def transcript(messages: Sequence[Message], last: int) -> str:
    """The ``last`` messages, one a line, with A for the user and B for the assistant."""
    return "\n".join(f"{SPEAKERS[message.role]}: {message.content}" for message in messages[-last:])
