"""How the records of a file are laid out, as the settings say or as it is recognised from the
first ones: messages with roles, alternating texts, one question with its answer, or rows of a table
of which each is one turn.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.readers.containers import Row
from sage_core.corpus.readers.conversations import (
    Layout,
    Turn,
    content_text,
    conversation,
    dialogue,
    joined,
    listed,
    records_of,
    said,
)
from sage_core.corpus.readers.fields import FieldError, identifier, needed, text
from sage_core.corpus.readers.roles import ASSISTANT, SYSTEM, USER, known_role
from sage_core.corpus.records import BadRecord, Record
from sage_core.schema import Dialogue, with_roles


@dataclass(frozen=True)
class Shape(ABC):
    """A layout with its columns: what each is for -> its name.

    Attributes:
        roles: the user's own names of roles.
        name: the source.
    """

    kind: ClassVar[str]
    columns: Mapping[str, str]
    roles: Mapping[str, str]
    name: str
    max_bytes: int

    def records(self, rows: Iterable[Row | BadRecord]) -> Iterator[Record]:
        """The dialogues of the rows, and what is refused."""
        return records_of(rows, self.dialogue)

    @abstractmethod
    def dialogue(self, record: dict[str, Any], number: int) -> Dialogue:
        """The dialogue of a record, or FieldError."""

    def speakers(self, record: dict[str, Any]) -> Iterable[str]:
        """The roles as a record names them."""
        return ()

    def _dialogue(
        self, record: dict[str, Any], number: int, turns: Iterable[Turn], *, has_roles: bool = True
    ) -> Dialogue:
        return dialogue(
            record, number, joined(turns), self.name, self.max_bytes, has_roles=has_roles,
            id_column=self.columns.get("id", ""),
        )  # fmt: skip


class MessageList(Shape):
    kind = "messages with roles"

    @property
    def layout(self) -> Layout:
        columns = self.columns
        return Layout(
            columns["messages"], columns["role"], columns["content"], self.roles,
            columns.get("id", ""),
        )  # fmt: skip

    def dialogue(self, record: dict[str, Any], number: int) -> Dialogue:
        return conversation(record, number, self.layout, self.name, self.max_bytes)

    def speakers(self, record: dict[str, Any]) -> Iterable[str]:
        try:
            messages = listed(record.get(self.columns["messages"]), "")
        except FieldError:
            return
        for message in messages:
            if isinstance(message, dict) and isinstance(name := message.get(self.columns["role"]),
                                                        str):  # fmt: skip
                yield name


class TextList(Shape):
    kind = "alternating texts, the first one the user's"

    def dialogue(self, record: dict[str, Any], number: int) -> Dialogue:
        column = self.columns["messages"]
        texts = listed(record.get(column), column)
        for at, each in enumerate(texts):
            content_text(each if isinstance(each, str) else {}, f"{column}[{at}]")
        return dialogue(
            record, number, with_roles(texts), self.name, self.max_bytes, has_roles=False,
            id_column=self.columns.get("id", ""),
        )  # fmt: skip


class Exchange(Shape):
    kind = "a question and its answer"

    def dialogue(self, record: dict[str, Any], number: int) -> Dialogue:
        turns: list[Turn] = []
        history = record.get("history")
        for at, pair in enumerate(history if isinstance(history, list) else []):
            if not isinstance(pair, list) or len(pair) != 2:
                raise FieldError("wrong_type", f"'history[{at}]' is no pair of texts")
            turns += [(USER, content_text(pair[0], f"history[{at}][0]")),
                      (ASSISTANT, content_text(pair[1], f"history[{at}][1]"))]  # fmt: skip
        asked = self._side(record, "prompt", USER)
        query = record.get(self.columns.get("query", ""))
        if query:
            asked.append((USER, content_text(query, self.columns["query"])))
        return self._dialogue(
            record, number, [*turns, *asked, *self._side(record, "response", ASSISTANT)]
        )

    def _side(self, record: dict[str, Any], which: str, role: str) -> list[Turn]:
        column = self.columns[which]
        value = record.get(column)
        if isinstance(value, list):  # messages, as TRL's conversational prompts and completions
            return said(value, Layout(column, "role", "content", self.roles), column)
        return [(role, text(record, column))]


class TurnRows(Shape):
    """Rows of a conversation stand together. One bad row refuses it whole, as one record.

    Where no speaker has a known role, they are people, and the first to speak is taken as the user;
    with a role for one of them in the settings, all others are users.
    """

    kind = "a table with a turn in each row"

    def records(self, rows: Iterable[Row | BadRecord]) -> Iterator[Record]:
        ended: set[int] = set()
        for name, of_one in groupby(rows, self._conversation):
            turns = list(of_one)
            if bad := next((row for row in turns if isinstance(row, BadRecord)), None):
                yield bad
                continue
            if hash(name) in ended:
                column = self.columns["conversation"]
                yield turns[0].refused(
                    "scattered",
                    f"rows of '{column}' = {name!r:.60} stand elsewhere too; sort the file by it",
                )
                continue
            ended.add(hash(name))
            yield from records_of([turns[0]], lambda first, number: self._of(turns, number))

    def dialogue(self, record: dict[str, Any], number: int) -> Dialogue:
        return self._of([Row(number, "", record)], number)

    def speakers(self, record: dict[str, Any]) -> Iterable[str]:
        return [str(record.get(self.columns["role"]))]

    def _conversation(self, row: Row | BadRecord) -> object:
        return row.where if isinstance(row, BadRecord) else row.record.get(
            self.columns["conversation"])  # fmt: skip

    def _of(self, rows: Sequence[Row], number: int) -> Dialogue:
        conversation_column = self.columns["conversation"]
        conversation_id = needed(
            identifier(rows[0].record, conversation_column), conversation_column
        )
        turns = [
            (
                needed(identifier(row.record, self.columns["role"]), self.columns["role"]),
                text(row.record, self.columns["content"]),
            )
            for row in rows
        ]
        names = list(dict.fromkeys(name for name, _ in turns))
        roles = {name: role for name in names if (role := known_role(name, self.roles))}
        if ASSISTANT not in {*roles.values(), *self.roles.values()}:
            if len(names) > 2:
                raise FieldError(
                    "unknown_role",
                    f"'{self.columns['role']}' has the speakers {', '.join(names):.200}; say in "
                    f"corpus.roles who is the assistant: corpus.roles={{{names[0]}: assistant}}",
                )
            roles = dict(zip(names, (USER, ASSISTANT), strict=False))
        spoken = [(roles.get(name, USER), text) for name, text in turns]
        return self._dialogue(
            {self.columns.get("id") or "id": conversation_id},
            number,
            [turn for turn in spoken if turn[0] != SYSTEM],
            has_roles=ASSISTANT in {known_role(name, self.roles) for name in names},
        )
