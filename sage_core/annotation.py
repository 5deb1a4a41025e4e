"""Annotation: an LLM writes down the motivation, emotion and topics of every utterance.

Departures from the paper's release: one request per utterance, with the turns before it as
context, instead of one per dialogue, and the answer is decoded under a JSON schema, so that a
state is well formed whatever the model. The readable rewrite and the bridging question are
separate requests and off by default. How values are chosen from closed lists instead is in
:mod:`sage_core.labels`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from sage_core.config import AnnotationConfig, SamplingConfig
from sage_core.engines.base import Constraint, Engine, Request
from sage_core.engines.grammar import json_schema
from sage_core.errors import StateFormatError
from sage_core.sac import EMPTY, StateAction, render_state
from sage_core.schema import AnnotatedDialogue, AnnotatedTurn, Dialogue, Message
from sage_core.topics import stand_in

_INSTRUCTIONS = (
    "You label utterances of conversations. For the last utterance, write what its speaker wants "
    "to do with it (motivation), what the speaker feels (emotion), and the one to {topics} things "
    "it is about (topics). Use one or two lower-case words for each."
)
# Several examples that differ in every label: a small model copies the labels of a single one.
_EXAMPLES = (
    (
        "A: I waited an hour for the bus again!",
        {"motivation": "complaint", "emotion": "annoyed", "topics": ["bus", "waiting"]},
    ),
    (
        "A: My interview is tomorrow.\nB: You have prepared so well. I am sure they will like you!",
        {"motivation": "encouragement", "emotion": "confident", "topics": ["interview"]},
    ),
    (
        "B: What a lovely photo! Where did you take it?",
        {"motivation": "question", "emotion": "impressed", "topics": ["photo"]},
    ),
    (
        "A: My dog ran away last night.\nB: Oh no, I am so sorry. That must hurt.",
        {"motivation": "sympathy", "emotion": "sad", "topics": ["dog", "loss"]},
    ),
    (
        "A: Guess what, I won the spelling contest!",
        {"motivation": "sharing", "emotion": "excited", "topics": ["contest", "winning"]},
    ),
    (
        "B: I only run when the ice cream van is leaving. What do you like to cook?",
        {"motivation": "humor", "emotion": "joyful", "topics": ["running", "ice cream"]},
    ),
    (
        "A: As kids we spent every summer at the lake.",
        {"motivation": "reminiscing", "emotion": "nostalgic", "topics": ["childhood", "lake"]},
    ),
    (
        "A: I like jazz more than rock.\nB: Me too, it is so much warmer.",
        {"motivation": "agreement", "emotion": "content", "topics": ["jazz", "music"]},
    ),
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
    """Give every utterance of ``dialogues`` a state."""
    dialogues = prepare(dialogues, engine, config, seed)
    sampling = _sampling(config, _STATE_TOKENS)
    constraint = _schema(config)
    requests = [
        Request(
            request_id=f"annotate/{dialogue.dialogue_id}/{turn}",
            messages=_state_prompt(dialogue, turn, config),
            sampling=sampling,
            seed=seed,
            constraint=constraint,
        )
        for dialogue in dialogues
        for turn in range(len(dialogue.messages))
    ]
    answers = iter(engine.generate(requests))
    annotated = []
    for dialogue in dialogues:
        turns = []
        before = ""
        for message in dialogue.messages:
            state = read_state(next(answers)[0].text)
            if config.topics == "extracted":
                state = replace(state, topics=stand_in(state.topics, message.content, before))
            before = message.content
            turns.append(
                AnnotatedTurn(
                    message.role, message.content, state.motivation, state.emotion, state.topics
                )
            )
        annotated.append(AnnotatedDialogue(dialogue.dialogue_id, tuple(turns)))
        on_progress(1)
    return annotated


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
    the format cannot carry, and repeated topics, are left out.
    """
    try:
        answer = json.loads(text)
        motivation, emotion = answer["motivation"], answer["emotion"]
        listed = answer["topics"]
    except (ValueError, KeyError, TypeError):
        return EMPTY
    if not isinstance(listed, list):
        return EMPTY
    topics: list[str] = []
    for topic in dict.fromkeys(str(topic) for topic in listed):
        # Among the others, since a topic harmless alone may spell a key behind their comma.
        if _carried(topic, lambda value: replace(EMPTY, topics=(*topics, value))):
            topics.append(topic)
    return StateAction(
        _carried(motivation, lambda value: replace(EMPTY, motivation=value)),
        _carried(emotion, lambda value: replace(EMPTY, emotion=value)),
        tuple(topics),
    )


def is_carried(value: str) -> bool:
    """Whether the text format can carry a motivation or emotion."""
    return _carried(value, lambda each: replace(EMPTY, motivation=each)) is not None and (
        _carried(value, lambda each: replace(EMPTY, emotion=each)) is not None
    )


def _carried(value: object, as_state: Callable[[str], StateAction]) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        for prefix in ("u", "a"):  # a value may spell a key of one role only
            render_state(as_state(value), prefix)
    except StateFormatError:
        return None
    return value


def _sampling(config: AnnotationConfig, max_new_tokens: int) -> SamplingConfig:
    return SamplingConfig(
        temperature=config.temperature,
        top_k=0,
        repetition_penalty=1,
        max_new_tokens=max_new_tokens,
    )


def _schema(config: AnnotationConfig) -> Constraint:
    def value(allowed: tuple[str, ...]) -> dict[str, object]:
        if allowed:
            return {"type": "string", "enum": list(allowed)}
        return {"type": "string", "pattern": _WORD}

    return json_schema(
        {
            "motivation": value(config.motivations),
            "emotion": value(config.emotions),
            "topics": {
                "type": "array",
                "items": {"type": "string", "pattern": _WORD},
                "minItems": 1,
                "maxItems": config.max_topics,
            },
        }
    )


def _state_prompt(dialogue: Dialogue, turn: int, config: AnnotationConfig) -> tuple[Message, ...]:
    instructions = _INSTRUCTIONS.format(topics=config.max_topics)
    if config.motivations:
        instructions += f" Motivations: {', '.join(config.motivations)}."
    if config.emotions:
        instructions += f" Emotions: {', '.join(config.emotions)}."
    return (
        Message("system", instructions),
        *(
            message
            for shown, labels in _EXAMPLES
            for message in (Message("user", shown), Message("assistant", json.dumps(labels)))
        ),
        Message("user", transcript(dialogue.messages[: turn + 1], config.context_turns + 1)),
    )


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
    answers = iter(engine.generate(requests))

    def rewritten(message: Message) -> Message:
        completion = next(answers)[0]
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
        if message.role == "assistant" and "?" not in message.content
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
    for (number, turn), answer in zip(places, engine.generate(requests), strict=True):
        question = answer[0].text.strip()
        if question.endswith("?"):
            message = bridged[number][turn]
            bridged[number][turn] = Message(message.role, f"{message.content} {question}")
    return [
        replace(dialogue, messages=tuple(messages))
        for dialogue, messages in zip(dialogues, bridged, strict=True)
    ]


def transcript(messages: Sequence[Message], last: int) -> str:
    """The ``last`` messages, one a line, with A for the user and B for the assistant."""
    return "\n".join(f"{SPEAKERS[message.role]}: {message.content}" for message in messages[-last:])
