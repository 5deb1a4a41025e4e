"""The fields of a state, each declared once.

Whatever lists fields derives from :data:`FIELDS`: the text format (:mod:`sage_core.sac`), the
grammar, the annotator's prompt and JSON schema, the tables (:mod:`sage_core.schema`), steering,
search, the figures of the report, the model card and both chats. A module that names a field is
about that field alone; ``tests/test_states.py`` holds the list of those, each with its reason.

To add a field, declare it below, name it in :data:`FIELDS`, and give :class:`StateAction` an
attribute: the last one, with a default, so that text, tables and code from before are still read.
Its settings in :mod:`sage_core.config` are optional: ``annotation.PLURAL``, the values that the
annotator chooses from (without it the field is free text), ``annotation.max_PLURAL`` of a list,
``steering_report.PLURAL`` and ``steering_report.NAME_pairs``.
"""

from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, TypeVar

T = TypeVar("T")
S = TypeVar("S", bound="StateAction")


@dataclass(frozen=True)
class Limits:
    """How long a value can be."""

    words: int
    letters: int  # of a word

    def reached_by(self, value: str) -> bool:
        """Whether nothing but the value's end may follow ``value``."""
        words = value.split(" ")
        return len(words) >= self.words and len(words[-1]) >= self.letters


LIMITS = Limits(words=3, letters=24)
"""Of a value that a model writes under the grammar. Values are short on purpose: a small model left
alone writes a paragraph into a field, or a word without an end. The longest word is longer than any
word that is one token: where a token can pass the bound, xgrammar has to try thousands of them one
by one, at each step of each row."""


@dataclass(frozen=True)
class Question:
    """What is asked of an utterance; the answer starts with ``opening``, and a value follows.

    A started sentence gets words of the right kind, and most values are one token behind it, where
    they would be several at the start of an answer. With the embedded model 31% of the emotions of
    160 situations of EmpatheticDialogues were right so (35% of all 2,762); a trial of answers in
    one word, on 160 others, had 16%.
    """

    text: str
    opening: str


@dataclass(frozen=True)
class StateField:
    """A field of a state: one value, or a list of values.

    Attributes:
        name: in the keys of the text format (``u_topic``), in steering and in reports.
        plural: in settings, in figures and in headings.
        asked: what the annotator is asked for; ``{most}`` is how many values it may give.
        examples: the values for each of :data:`EXAMPLES`, in their order.
        consent: the value in the user's state, and in the agent's action, before the consent that
            opens a conversation.
        most: values under the grammar, and by default of an annotation; more than one is a list.
        question: how its values are scored, which needs ``annotation.PLURAL``; without a question
            the field stays empty under ``annotation.method: score``.
        sliders: values that the chat page has a slider for: words of the demo's vocabulary that
            sound unlike each other.
        table: the paper's table of replies under forced values of the field.
    """

    name: str
    plural: str
    asked: str
    examples: tuple[tuple[str, ...], ...]
    consent: tuple[str, str]
    most: int = 1
    question: Question | None = None
    sliders: tuple[str, ...] = ()
    table: int | None = None

    @property
    def many(self) -> bool:
        return self.most > 1

    @property
    def column(self) -> str:
        """Its attribute of :class:`StateAction`, column of the tables and key of the annotator's
        JSON."""
        return self.plural if self.many else self.name

    def of(self, state: "StateAction") -> tuple[str, ...]:
        """The field's values in ``state``; none where it is not known."""
        value = getattr(state, self.column)
        if self.many:
            return tuple(value)
        return () if value is None else (value,)

    def put(self, state: S, values: Sequence[str]) -> S:
        """``state`` with these values of the field, of which one value has one or none."""
        value: Any = tuple(values) if self.many else next(iter(values), None)
        return replace(state, **{self.column: value})


EXAMPLES = (
    "A: I waited an hour for the bus again!",
    "A: My interview is tomorrow.\nB: You have prepared so well. I am sure they will like you!",
    "B: What a lovely photo! Where did you take it?",
    "A: My dog ran away last night.\nB: Oh no, I am so sorry. That must hurt.",
    "A: Guess what, I won the spelling contest!",
    "B: I only run when the ice cream van is leaving. What do you like to cook?",
    "A: As kids we spent every summer at the lake.",
    "A: I like jazz more than rock.\nB: Me too, it is so much warmer.",
)
"""Utterances (the last line) that the annotator sees with their labels. Several that differ in
every label: a small model copies the labels of a single one."""

MOTIVATION = StateField(
    name="motivation",
    plural="motivations",
    asked="what its speaker wants to do with it",
    examples=(
        ("complaint",), ("encouragement",), ("question",), ("sympathy",), ("sharing",), ("humor",),
        ("reminiscing",), ("agreement",),
    ),
    consent=("request", "agreement"),
    question=Question("What is the purpose of {whose} message?", "The purpose is"),
    sliders=("humor", "sympathy", "question", "suggestion"),
    table=4,
)  # fmt: skip
EMOTION = StateField(
    name="emotion",
    plural="emotions",
    asked="what the speaker feels",
    examples=(
        ("annoyed",), ("confident",), ("impressed",), ("sad",), ("excited",), ("joyful",),
        ("nostalgic",), ("content",),
    ),
    consent=("hopeful", "caring"),
    question=Question("How does {who} feel?", "{who} feels"),
    sliders=("caring", "joyful", "surprised", "sad"),
    table=3,
)  # fmt: skip
TOPIC = StateField(
    name="topic",
    plural="topics",
    asked="the one to {most} things it is about",
    examples=(
        ("bus", "waiting"), ("interview",), ("photo",), ("dog", "loss"), ("contest", "winning"),
        ("running", "ice cream"), ("childhood", "lake"), ("jazz", "music"),
    ),
    consent=("company", "company"),
    most=3,
    table=5,
)  # fmt: skip


@dataclass(frozen=True)
class StateAction:
    """What a speaker wants, feels and speaks of; ``None`` or ``()`` where that is not known."""

    motivation: str | None
    emotion: str | None
    topics: tuple[str, ...]


FIELDS = (MOTIVATION, EMOTION, TOPIC)
"""In the order of the text format."""
EMPTY = StateAction(None, None, ())

NAMED = {field.name: field for field in FIELDS}
_WITH_DEFAULT = {each.name for each in fields(StateAction) if each.default is not MISSING}
REQUIRED = tuple(field for field in FIELDS if field.column not in _WITH_DEFAULT)
"""Fields that every well-formed text has; the others were added later."""
SINGLE = tuple(field for field in FIELDS if not field.many)
SCORED = tuple(field for field in SINGLE if field.question)


def one_for_each(group: Sequence[StateField], kind: Any) -> Callable[[type[T]], type[T]]:
    """A class decorator, written below ``@dataclass``: adds an attribute of type ``kind``, named in
    plural, for each field of ``group``, after those that the class declares."""

    def add(cls: type[T]) -> type[T]:
        cls.__annotations__ |= {field.plural: kind for field in group}
        return cls

    return add
