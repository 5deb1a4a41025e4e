"""Steering: what may be asked of the states that a model writes before its reply.

The paper (section 5.3, Tables 3 to 5) adds a value to the logits of chosen keywords right after
``a_motivation``. Here a **boost** does so for every field of both speakers and for words of several
tokens; a **force** sets the field and leaves the rest to the model; a **ban** keeps a value from
being chosen. :mod:`sage_core.engines.steerer` carries them out.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Self, TypeVar, cast, get_args

from sage_core.errors import ConfigError, StateFormatError
from sage_core.sac import AGENT, USER, render_state
from sage_core.states import EMPTY, NAMED

T = TypeVar("T")

Speaker = Literal["user", "agent"]
FieldName = str
"""The name of one of :data:`sage_core.states.FIELDS`."""

_SPEAKERS: tuple[Speaker, ...] = get_args(Speaker)
_NAME = re.compile(r"(?:(\w+)\.)?(\w+)")


@dataclass(frozen=True)
class Boost:
    """``value`` (finite, in logits; negative lowers, 0 does nothing) is added wherever a token
    writes the next part of ``keyword`` as the field's value, or as one of a list's values.

    Raises:
        ConfigError: the value is not finite, or the format cannot carry the keyword.
    """

    speaker: Speaker
    field: FieldName
    keyword: str
    value: float

    def __post_init__(self) -> None:
        _check(self.speaker, self.field, (self.keyword,))
        if not math.isfinite(self.value):
            raise ConfigError(
                f"the boost of '{self.keyword}' is {self.value}; it is added to logits and must be "
                f"a finite number such as 1.0 (use a ban for 'never', a force for 'always')"
            )


@dataclass(frozen=True)
class Force:
    """The field is exactly this value, or the list of these in this order; any words.

    Raises:
        ConfigError: no value, several for a field of one, or one the format cannot carry.
    """

    speaker: Speaker
    field: FieldName
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_names(self.speaker, self.field)
        many = NAMED[self.field].many
        if not self.values or (not many and len(self.values) > 1):
            raise ConfigError(
                f"{self.speaker}.{self.field} is forced to {list(self.values)}; it takes "
                f"{'at least' if many else 'exactly'} one value"
            )
        _check(self.speaker, self.field, self.values)

    @property
    def written(self) -> str:
        """The value as the format writes it."""
        return f"[{', '.join(self.values)}]" if NAMED[self.field].many else self.values[0]


@dataclass(frozen=True)
class Ban:
    """The field's value, or one of a list's values, is never ``keyword``, in upper or lower case;
    a longer value that starts with it may be.

    Raises:
        ConfigError: the format cannot carry the keyword.
    """

    speaker: Speaker
    field: FieldName
    keyword: str

    def __post_init__(self) -> None:
        _check(self.speaker, self.field, (self.keyword,))


@dataclass(frozen=True)
class Steering:
    """All that is asked of one reply's states.

    Raises:
        ConfigError: a keyword is boosted twice, a field forced twice, or a forced value banned.
    """

    boosts: tuple[Boost, ...] = ()
    forces: tuple[Force, ...] = ()
    bans: tuple[Ban, ...] = ()

    def __post_init__(self) -> None:
        boosted = [f"{b.speaker}.{b.field}={b.keyword}" for b in self.boosts]
        forced = [f"{f.speaker}.{f.field}" for f in self.forces]
        for what, names in (("boosted", boosted), ("forced", forced)):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ConfigError(f"{', '.join(twice)}: {what} more than once; keep one of them")
        banned = {(b.speaker, b.field, b.keyword.casefold()) for b in self.bans}
        for force in self.forces:
            for value in force.values:
                if (force.speaker, force.field, value.casefold()) in banned:
                    raise ConfigError(
                        f"{force.speaker}.{force.field} is forced to '{value}', which is banned; "
                        "drop the force or the ban"
                    )

    def __bool__(self) -> bool:
        return bool(self.boosts or self.forces or self.bans)

    def joined(self, later: "Steering") -> "Steering":
        """Both; of two boosts of one keyword, or two forces of one field, the later counts. A boost
        of 0 goes away.

        Raises:
            ConfigError: a forced value is banned.
        """
        boosts = {(b.speaker, b.field, b.keyword): b for b in (*self.boosts, *later.boosts)}
        forces = {(f.speaker, f.field): f for f in (*self.forces, *later.forces)}
        return Steering(
            tuple(boost for boost in boosts.values() if boost.value),
            tuple(forces.values()),
            tuple(dict.fromkeys((*self.bans, *later.bans))),
        )

    def written(self) -> dict[str, list[str]]:
        """As :meth:`read` takes it: ``Steering.read(**steering.written()) == steering``."""
        return {
            "boost": [f"{b.speaker}.{b.field}={b.keyword}:{b.value!r}" for b in self.boosts],
            "force": [f"{f.speaker}.{f.field}={','.join(f.values)}" for f in self.forces],
            "ban": [f"{b.speaker}.{b.field}={b.keyword}" for b in self.bans],
        }

    @classmethod
    def read(
        cls, *, boost: Iterable[str] = (), force: Iterable[str] = (), ban: Iterable[str] = ()
    ) -> Self:
        """From the command line's forms ``motivation=humor:1.0``, ``topic=cats,dogs`` and
        ``user.emotion=angry``; the speaker is the agent where none is named.

        Raises:
            ConfigError: names everything that is wrong.
        """
        errors: list[str] = []
        boosts = _all(read_boost, boost, errors)
        forces = _all(read_force, force, errors)
        bans = _all(read_ban, ban, errors)
        if errors:
            raise ConfigError("; ".join(errors))
        return cls(boosts, forces, bans)


def read_boost(text: str) -> Boost:
    """``[user.|agent.]FIELD=KEYWORD:VALUE``.

    Raises:
        ConfigError: the text has another form, or the boost is refused.
    """
    speaker, field, rest = _target(text, "motivation=humor:1.0")
    keyword, colon, number = rest.rpartition(":")
    try:
        value = float(number)
    except ValueError:
        colon = ""
    if not colon:
        raise ConfigError(
            f"the boost '{text}' names no value in logits; write it behind a colon, such as "
            "motivation=humor:1.0"
        )
    return Boost(speaker, field, keyword.strip(), value)


def read_force(text: str) -> Force:
    """``[user.|agent.]FIELD=VALUE``; commas separate the values of a list.

    Raises:
        ConfigError: the text has another form, or the force is refused.
    """
    speaker, field, rest = _target(text, "emotion=playful")
    values = rest.split(",") if NAMED[field].many else [rest]
    return Force(speaker, field, tuple(value.strip() for value in values))


def read_ban(text: str) -> Ban:
    """``[user.|agent.]FIELD=KEYWORD``.

    Raises:
        ConfigError: the text has another form, or the ban is refused.
    """
    speaker, field, rest = _target(text, "emotion=angry")
    return Ban(speaker, field, rest.strip())


def _all(read: Callable[[str], T], texts: Iterable[str], errors: list[str]) -> tuple[T, ...]:
    """Every text that can be read; what is wrong with the others goes to ``errors``."""
    items = []
    for text in texts:
        try:
            items.append(read(text))
        except ConfigError as error:
            errors.append(str(error))
    return tuple(items)


def _target(text: str, example: str) -> tuple[Speaker, FieldName, str]:
    name, equals, rest = text.partition("=")
    match = _NAME.fullmatch(name.strip())
    if not equals or match is None:
        raise ConfigError(
            f"'{text}' is not of the form [user.|agent.]FIELD=VALUE; write for example {example}"
        )
    speaker, field = match[1] or "agent", match[2]
    _check_names(speaker, field)
    return cast(Speaker, speaker), field, rest


def _check_names(speaker: str, field: str) -> None:
    if speaker not in _SPEAKERS or field not in NAMED:
        raise ConfigError(
            f"'{speaker}.{field}' is not a field of a state; the speakers are "
            f"{', '.join(_SPEAKERS)}, the fields {', '.join(NAMED)}"
        )


def _check(speaker: str, field: str, values: tuple[str, ...]) -> None:
    """That the State-Action Chain format carries these values of one field."""
    _check_names(speaker, field)
    state = NAMED[field].put(EMPTY, values)
    try:
        render_state(state, (USER if speaker == "user" else AGENT).written)
    except StateFormatError as error:
        quoted = ", ".join(f"'{value}'" for value in values)
        raise ConfigError(f"{quoted} cannot be the {field} of the {speaker}: {error}") from None
