"""Where a growing reply is: in which state value, how far into it, or past its states.

:func:`sage_core.sac.parse` reads finished text; this reads the same format piece by piece and looks
at each character once. Only the reply's own text is fed, so nothing that a user typed is ever taken
for a state.
"""

import re
from typing import NamedTuple

from sage_core import sac
from sage_core.engines.steering import FieldName, Speaker
from sage_core.states import NAMED

_SPECIAL = re.compile(r"[{}:,]")


class Position(NamedTuple):
    """Inside a value: ``value`` is its text since the key's colon, white space and the brackets of
    a list included; ``prefix`` is how this group's keys begin, such as ``u`` or ``user``.

    Whether a comma ends a value shows only at the next key's colon; until then it is part of it.
    """

    speaker: Speaker
    field: FieldName
    prefix: str
    value: str

    @property
    def many(self) -> bool:
        """Whether the field holds a list."""
        return NAMED[self.field].many

    @property
    def item(self) -> str:
        """The text of the value so far; of a list, of its current value."""
        if not self.many:
            return self.value
        _, comma, last = self.value.rpartition(",")
        if comma or not self.value.lstrip().startswith("["):
            return last
        return self.value.lstrip()[1:]

    @property
    def earlier(self) -> tuple[str, ...]:
        """The values of a list before the current one."""
        head, comma, _ = self.value.rpartition(",")
        if not self.many or not comma:
            return ()
        return tuple(value.strip() for value in head.lstrip().removeprefix("[").split(","))

    @property
    def expected(self) -> bool:
        """Whether the format as it is written has a value here; not before a list's opening
        bracket, nor after its closing one."""
        if not self.many:
            return True
        return self.value.lstrip().startswith("[") and not any(
            value.endswith("]") for value in self.earlier
        )


class StateTracker:
    """Follows one reply.

    Attributes:
        done: the states are over, or the text has none; nothing changes any more.
        position: inside which value the text ends, or None.
        lead: the text since the reply's start, or since the last group, that holds no key yet.
        values: the text of each value in the groups that are closed, which
            :func:`sage_core.sac.parse` reads from the same text.
    """

    def __init__(self) -> None:
        self.done = False
        self.lead = ""
        self.values: dict[tuple[Speaker, FieldName], str] = {}
        self._may_open: tuple[sac.Role, ...] = (sac.USER, sac.AGENT)
        self._role: sac.Role | None = None  # of the open group, once its first key is read
        self._depth = 0
        self._open_values: dict[tuple[Speaker, FieldName], str] = {}
        self._key: tuple[Speaker, FieldName, str] | None = None
        self._value = ""
        self._segment = ""  # since the last comma, or since the group's opening brace

    @property
    def position(self) -> Position | None:
        return None if self._key is None else Position(*self._key, self._value)

    def feed(self, text: str) -> None:
        """Go on by some text."""
        start = 0
        for match in _SPECIAL.finditer(text):
            if self.done:
                return
            self._plain(text[start : match.start()])
            self._special(match.group())
            start = match.end()
        if not self.done:
            self._plain(text[start:])

    def _plain(self, text: str) -> None:
        if self._depth == 0 and text and not text.isspace():
            self._end()
        self._append(text)

    def _append(self, text: str) -> None:
        self._segment += text
        if self._role is None:
            self.lead += text
        else:
            self._value += text

    def _special(self, character: str) -> None:
        if self.done:
            return
        if self._role is None:
            self._before_first_key(character)
        elif character == ":" and (match := self._role.key.fullmatch(f",{self._segment}:")):
            self._close_value(self._value[: -len(self._segment) - 1])
            self._open_value(match)
        elif character == "}" and self._depth == 1:
            self._close_value(self._value)
            self._close_group()
        else:
            self._depth += {"{": 1, "}": -1}.get(character, 0)
            self._append(character)
            if character == ",":
                self._segment = ""

    def _before_first_key(self, character: str) -> None:
        if character == "{" and self._depth == 0:
            self.lead += character
            self._depth, self._segment = 1, ""
            return
        if character == ":" and self._depth == 1:
            for role in self._may_open:
                if match := role.key.fullmatch(f"{self._segment}:"):
                    self._role = role
                    self._open_value(match)
                    return
        self._end()

    def _open_value(self, match: re.Match[str]) -> None:
        speaker: Speaker = "user" if self._role is sac.USER else "agent"
        prefix = match.group().lstrip(",").strip().partition("_")[0]
        field = match.group(1)
        self._key, self._value = (speaker, field, prefix), ""
        self._segment = ":"  # so that no key is seen before the next comma

    def _close_value(self, value: str) -> None:
        assert self._key is not None
        speaker, field, _ = self._key
        self._open_values.setdefault((speaker, field), value.strip())

    def _close_group(self) -> None:
        self.values |= self._open_values
        self._open_values = {}
        if self._role is sac.AGENT:
            self._end()
            return
        self._may_open = (sac.AGENT,)
        self._role = self._key = None
        self._depth, self._segment, self.lead = 0, "", ""

    def _end(self) -> None:
        self.done = True
        self._key = None
