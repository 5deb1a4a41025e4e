"""State-Action Chain text: parse, render, strip.

The format is that of the paper's published checkpoint::

    {u_motivation: complaint, u_emotion: null, u_topic: [zombies]} {a_motivation: ...} reply

A group is read only where it can be nothing else: at the start of the text, with balanced braces,
opening with a key of its role. Everything after the groups is the utterance, character for
character, whatever braces it holds. The paper's release used a regular expression over all braces
and lost the user's own; this parser scans instead, accepts the long keys (``user_motivation``,
``assistant_topic``) beside the short ones, missing keys and ``null``, and never raises.

White space around a value is not part of it, an empty value is read as ``null``, and ``null`` is
no value: those, unbalanced braces, a comma in a list's value and a value that spells the next key
are what :func:`render` refuses. The fields are those of :mod:`sage_core.states`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sage_core.errors import StateFormatError
from sage_core.states import EMPTY as EMPTY
from sage_core.states import FIELDS, REQUIRED, StateField
from sage_core.states import StateAction as StateAction


@dataclass(frozen=True)
class StateActionReply:
    """A State-Action Chain: the user's state, the agent's action, the agent's utterance."""

    user: StateAction
    agent: StateAction
    utterance: str


_NULL = "null"
_NAMES = "|".join(field.name for field in FIELDS)


@dataclass(frozen=True)
class Role:
    """The key prefixes of one speaker: the one written, and all that are read."""

    written: str
    key: re.Pattern[str]


def _role(written: str, *read: str) -> Role:
    prefixes = "|".join((written, *read))
    return Role(written, re.compile(rf"(?:^|,)\s*(?:{prefixes})_({_NAMES})s?\s*:"))


USER = _role("u", "user")
AGENT = _role("a", "assistant", "agent")


def parse(text: str) -> StateActionReply:
    """Read a reply. Text without state groups is all utterance; never raises."""
    user, rest = _read_group(text, USER)
    agent, after_agent = _read_group(text if user is None else rest, AGENT)
    if agent is not None:
        rest = after_agent
    if user is None and agent is None:
        return StateActionReply(EMPTY, EMPTY, text)
    return StateActionReply(user or EMPTY, agent or EMPTY, rest.removeprefix(" "))


def render(reply: StateActionReply) -> str:
    """Write a reply, so that ``parse(render(reply)) == reply``.

    Raises:
        StateFormatError: a state value cannot be carried by the format.
    """
    user = render_state(reply.user, USER.written)
    agent = render_state(reply.agent, AGENT.written)
    return f"{user} {agent} {reply.utterance}"


def render_state(state: StateAction, prefix: str) -> str:
    """Write one group; ``prefix`` is ``u`` for the user's state, ``a`` for the agent's action.

    Raises:
        StateFormatError: reading the group back would give another state.
    """
    group = _group(prefix, (_written(field, state) for field in FIELDS))
    read, rest = _read_group(group, USER if prefix == USER.written else AGENT)
    if read != state or rest:
        raise StateFormatError(
            f"the state {state} cannot be written in the State-Action Chain format: it would be "
            f"read back as {read}. A value needs at least one character, no white space around "
            "it and balanced braces; it is not the word 'null' and holds no key of the format; a "
            "value of a list holds no comma. Use None or an empty tuple for 'no value'."
        )
    return group


def utterance_of(text: str) -> str:
    """The utterance of a reply, without its states: what a user, selector or judge may see."""
    return parse(text).utterance


def ends_of_states(text: str) -> tuple[int, int]:
    """Where the user's state and the agent's action end in a reply, in characters (exclusive); the
    rest is the utterance. A group that is not there ends where it would start."""
    user, rest = _read_group(text, USER)
    user_end = 0 if user is None else len(text) - len(rest)
    agent, rest = _read_group(text[user_end:], AGENT)
    return user_end, user_end if agent is None else len(text) - len(rest)


def is_well_formed(text: str) -> bool:
    """Whether ``text`` opens with both groups, each with its keys in order, and says something."""
    rest = text
    for role in (USER, AGENT):
        end = _group_end(rest)
        if end is None:
            return False
        keys = [match.group(1) for match in role.key.finditer(rest[rest.index("{") + 1 : end - 1])]
        if keys != [each.name for each in FIELDS if each in REQUIRED or each.name in keys]:
            return False
        rest = rest[end:]
    return bool(rest.strip())


def outline() -> str:
    """The format, with dots in place of values and words, for a reader who has not seen it."""
    dots = ["[...]" if field.many else "..." for field in FIELDS]
    return f"{_group(USER.written, dots)} {_group(AGENT.written, dots)} what is said"


def _group(prefix: str, values: Iterable[str]) -> str:
    """A group with its values as they are written, in the order of the fields."""
    written = zip(FIELDS, values, strict=True)
    return f"{{{', '.join(f'{prefix}_{field.name}: {value}' for field, value in written)}}}"


def _written(field: StateField, state: StateAction) -> str:
    values = field.of(state)
    if field.many:
        return f"[{', '.join(values)}]"
    return values[0] if values else _NULL


def _group_end(text: str) -> int | None:
    """Where the brace group that opens ``text`` ends (exclusive), or None if there is none."""
    if not text.lstrip().startswith("{"):
        return None
    depth = 0
    for index, character in enumerate(text):
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return index + 1
    return None


def _read_group(text: str, role: Role) -> tuple[StateAction | None, str]:
    """Read the state group of ``role`` that opens ``text``: (state, rest), or (None, text)."""
    end = _group_end(text)
    if end is None:
        return None, text
    inner = text[text.index("{") + 1 : end - 1]
    matches = list(role.key.finditer(inner))
    if not matches or matches[0].start() != 0:
        return None, text
    values: dict[str, str] = {}
    for match, following in zip(matches, [*matches[1:], None], strict=True):
        value_end = following.start() if following else len(inner)
        values.setdefault(match.group(1), inner[match.end() : value_end].strip())
    state = EMPTY
    for field in FIELDS:
        state = field.put(state, read_value(field, values.get(field.name, "")))
    return state, text[end:]


def read_value(field: StateField, text: str) -> tuple[str, ...]:
    """The values that a field's text in a reply holds: none for ``null`` or nothing."""
    values = [text]
    if field.many:
        if text.startswith("[") and text.endswith("]"):
            text = text[1:-1]
        values = [value.strip() for value in text.split(",")]
    return tuple(value for value in values if value not in ("", _NULL))
