"""A tokenizer's chat template: what it writes around what is said.

A template is rendered twice: with placeholders for contents, which shows its own text (the
*frame*), and with the contents. The second text has to be the frame with the contents in their
places, so where each content is follows by comparing, for any template and without tags in it. A
template may strip white space from a content; one that changes anything else is refused.

The token that ends a reply is the first added token that the template writes behind it.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from sage_core.errors import DataError
from sage_core.schema import Message

_PLACE = "\ufdd2{}\ufdd3"  # noncharacters: no template and no text has them
_PLACES = re.compile("\ufdd2(\\d+)\ufdd3")
_EXCHANGE = ("user", "assistant", "user", "assistant")


@dataclass(frozen=True)
class Reply:
    """Places in a rendered text: where the content of an assistant message starts and ends, and
    where the token that ends the turn starts (None: the template writes none)."""

    start: int
    end: int
    end_token: int | None


class ChatTemplate:
    """The chat template of one tokenizer.

    Raises:
        DataError: it refuses the roles user and assistant in turn, or shows no token that ends a
            reply.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._frames: dict[tuple[str, ...], str] = {}
        tokens = {token.content for token in tokenizer.added_tokens_decoder.values()}
        special = sorted((token for token in tokens if token.strip()), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)) or "(?!)")
        last = self._special.search(self._behind(_EXCHANGE, 3))
        behind = self._behind((*_EXCHANGE, "user"), 3)
        found = last or self._special.search(behind)
        if found is None:
            raise DataError(
                f"the model's chat template writes {behind!r} behind a reply, without a token that "
                "ends it, so a model cannot learn to stop"
            )
        self.end = found.group()
        self.closing = "" if last else behind[: found.end()]
        """What is added to the last reply, where the template ends a reply only once another
        message follows."""

    @cached_property
    def moves_system(self) -> bool:
        """Whether the template refuses a system message, or leaves out its text."""
        try:
            return _PLACE.format(0) not in self._rendered(self._placeholders(("system", "user")))
        except DataError:
            return True

    def skeleton(self) -> str:
        """All that the template writes by itself around messages of every role."""
        asked = self._rendered(self._placeholders(_EXCHANGE[:3]), add_generation_prompt=True)
        roles = ("user",) if self.moves_system else ("system", "user")
        return _PLACES.sub("", asked + self._rendered(self._placeholders(roles)))

    def write(self, messages: Sequence[Message]) -> tuple[str, list[Reply]]:
        """The conversation as text, and where its assistant messages are.

        Raises:
            DataError: the template refuses the conversation or changes what is said.
        """
        messages = self._without_system(messages)
        roles = tuple(message.role for message in messages)
        frame = self._frame(roles)
        text = self._rendered([asdict(message) for message in messages])
        order = [int(number) for number in _PLACES.findall(frame)]
        parts = _PLACES.split(frame)[::2]
        found: dict[int, Reply] = {}
        at = len(parts[0])
        matches = text.startswith(parts[0])
        for number, part in zip(order, parts[1:], strict=True):
            said = next((s for s in _forms(messages[number].content)
                         if text.startswith(s + part, at)), None)  # fmt: skip
            if said is None:
                matches = False
                break
            end = at + len(said)
            token = self._special.search(part)
            found[number] = Reply(at, end, end + token.start() if token else None)
            at = end + len(part)
        if not matches or at != len(text):
            raise DataError(
                "the model's chat template changes what is said: "
                f"{difference(text, _filled(frame, messages))}"
            )
        replies = [found[n] for n, role in enumerate(roles) if role == "assistant"]
        if roles[-1] == "assistant" and self.closing:
            text += self.closing
            replies[-1] = replace(replies[-1], end_token=len(text) - len(self.end))
        return text, replies

    def asked(self, messages: Sequence[Message]) -> str:
        """The conversation with the template's own start of a reply."""
        messages = self._without_system(messages)
        return self._rendered([asdict(m) for m in messages], add_generation_prompt=True)

    def keeps(self, messages: Sequence[Message], number: int) -> bool:
        """Whether the conversation starts with the same text, up to the end of reply ``number``, as
        the conversation that this reply ends."""
        moved = self._without_system(messages)
        number -= len(messages) - len(moved)
        roles = [message.role for message in moved]
        whole, short = self._frame(roles), self._frame(roles[: number + 1]) + self.closing
        token = self._special.search(short, short.index(_PLACE.format(number)))
        return token is not None and whole.startswith(short[: token.end()])

    def _without_system(self, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages, with a system message in the first user turn where it has to move."""
        if not messages or messages[0].role != "system" or not self.moves_system:
            return messages
        system, *others = messages
        if not others or others[0].role != "user":
            return [replace(system, role="user"), *others]
        first = replace(others[0], content=f"{system.content}\n\n{others[0].content}")
        return [first, *others[1:]]

    def _frame(self, roles: Sequence[str]) -> str:
        """The template's text with placeholders for the contents."""
        roles = tuple(roles)
        if roles not in self._frames:
            frame = self._rendered(self._placeholders(roles))
            found = sorted(int(number) for number in _PLACES.findall(frame))
            if found != list(range(len(roles))):
                shown = [sum(each == number for each in found) for number in range(len(roles))]
                raise DataError(
                    "the model's chat template does not show each message once: the roles "
                    f"{', '.join(roles)} are shown {', '.join(map(str, shown))} times"
                )
            self._frames[roles] = frame
        return self._frames[roles]

    def _behind(self, roles: Sequence[str], number: int) -> str:
        """What the template writes behind a message, up to the next content."""
        after = self._frame(roles).split(_PLACE.format(number))[1]
        return _PLACES.split(after)[0]

    @staticmethod
    def _placeholders(roles: Sequence[str]) -> list[dict[str, str]]:
        return [{"role": role, "content": _PLACE.format(n)} for n, role in enumerate(roles)]

    def _rendered(self, messages: list[dict[str, str]], **arguments: Any) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, **arguments)
        except Exception as error:  # whatever the template raises
            raise DataError(
                f"the model's chat template refuses this conversation ({error}); the roles are "
                f"{', '.join(message['role'] for message in messages)}"
            ) from error
        return text


def difference(one: str, other: str, shown: int = 40) -> str:
    """Where two texts part, in words."""
    same = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
                min(len(one), len(other)))  # fmt: skip
    before = max(0, same - shown // 2)
    return (
        f"{one[before : same + shown]!r} against {other[before : same + shown]!r}, from character "
        f"{same}"
    )


def _forms(content: str) -> list[str]:
    """The content as templates show it: whole, or without white space at its ends."""
    return [content, content.strip(), content.lstrip("\n"), content.lstrip(), content.rstrip()]


def _filled(frame: str, messages: Sequence[Message]) -> str:
    return _PLACES.sub(lambda place: messages[int(place.group(1))].content, frame)
