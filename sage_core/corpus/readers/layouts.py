"""How the records of a file are laid out, as the settings say or as it is recognised from the
first ones: messages with roles, alternating texts, one question with its answer, or rows of a table
of which each is one turn.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from sage_core.corpus.readers.conversations import (
    Layout,
    Turn,
    content_text,
    conversation,
    dialogue,
    listed,
    said,
)
from sage_core.corpus.readers.fields import FieldError, identifier, needed, text, wrong
from sage_core.corpus.readers.roles import ASSISTANT, SYSTEM, USER, known_role
from sage_core.corpus.readers.rows import Row, records_of
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
            record, number, turns, self.name, self.max_bytes, has_roles=has_roles,
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
            if not isinstance(each, str):
                raise wrong(each, f"{column}[{at}]", "a text")
        turns = [(message.role, message.content) for message in with_roles(texts)]
        return self._dialogue(record, number, turns, has_roles=False)


class Exchange(Shape):
    kind = "a question and its answer"

    def dialogue(self, record: dict[str, Any], number: int) -> Dialogue:
        turns: list[Turn] = []
        history = record.get("history")
        for at, pair in enumerate(history if isinstance(history, list) else []):
            if not isinstance(pair, list) or len(pair) != 2:
                raise FieldError("wrong_type", f"'history[{at}]' is not a pair of texts")
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
    """Rows of a conversation follow each other. One bad row refuses it whole, as one record; one
    between two conversations may be of either, and refuses both.

    Where no speaker has a known role, they are people, and the first to speak is taken as the user;
    with a role for one of them in the settings, all others are users.
    """

    kind = "a table with a turn in each row"

    def records(self, rows: Iterable[Row | BadRecord]) -> Iterator[Record]:
        ended: set[int] = set()
        for good, bad in self._conversations(rows):
            yield bad or self._record(good, ended)

    def _conversations(
        self, rows: Iterable[Row | BadRecord]
    ) -> Iterator[tuple[list[Row], BadRecord | None]]:
        """The rows of each conversation, with the first bad one among them."""
        good: list[Row] = []
        bad: BadRecord | None = None
        before: BadRecord | None = None  # the row before is bad
        for row in rows:
            if isinstance(row, BadRecord):
                before = row
                bad = bad or row
                continue
            if good and self._conversation(row) != self._conversation(good[0]):
                yield good, bad
                good, bad = [], before and row.refused(before.reason, _may_be_first(before))
            before = None
            good.append(row)
        if good or bad:
            yield good, bad

    def _record(self, rows: Sequence[Row], ended: set[int]) -> Record:
        name = hash(self._conversation(rows[0]))
        if name in ended:
            return rows[0].refused(
                "scattered",
                f"rows of '{self.columns['conversation']}' = {self._conversation(rows[0])!r:.60} "
                "are elsewhere in the file too; sort it by that column",
            )
        ended.add(name)
        try:
            return self._of(rows, rows[0].number)
        except FieldError as error:
            return rows[0].refused(error.reason, error.detail)

    def dialogue(self, record: dict[str, Any], number: int) -> Dialogue:
        return self._of([Row(number, "", record)], number)

    def speakers(self, record: dict[str, Any]) -> Iterable[str]:
        return [str(record.get(self.columns["role"]))]

    def _conversation(self, row: Row) -> str:
        return str(row.record.get(self.columns["conversation"]))

    def _of(self, rows: Sequence[Row], number: int) -> Dialogue:
        column, role, content = (self.columns[use] for use in ("conversation", "role", "content"))
        conversation_id = needed(identifier(rows[0].record, column), column)
        turns = [
            (needed(identifier(row.record, role), role), text(row.record, content)) for row in rows
        ]
        roles = self._roles(list(dict.fromkeys(name for name, _ in turns)))
        spoken = [(roles[name], name if roles[name] == SYSTEM else said) for name, said in turns]
        known = any(known_role(name, self.roles) for name in roles)
        record = {**rows[0].record, self.columns.get("id") or "dialogue_id": conversation_id}
        return self._dialogue(record, number, spoken, has_roles=known)

    def _roles(self, names: Sequence[str]) -> dict[str, str]:
        roles = {name: role for name in names if (role := known_role(name, self.roles))}
        if ASSISTANT in roles.values():
            return {name: roles.get(name, USER) for name in names}
        listed = ", ".join(names)[:200]
        if ASSISTANT in self.roles.values():
            raise FieldError("no_agent", f"the assistant says nothing here; speakers: {listed}")
        people = [name for name in names if roles.get(name) != SYSTEM]
        if len(people) > 2:
            raise FieldError(
                "unknown_role",
                f"'{self.columns['role']}' has the speakers {listed}; say in corpus.roles who is "
                f"the assistant: corpus.roles={{{names[0]}: assistant}}",
            )
        people.sort(key=lambda name: roles.get(name) != USER)  # stable: else the first is the user
        return {**roles, **dict(zip(people, (USER, ASSISTANT), strict=False))}


def _may_be_first(bad: BadRecord) -> str:
    return f"its first row may be {bad.where}, which cannot be read: {bad.detail or bad.reason}"
