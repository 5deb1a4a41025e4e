"""Preferences of people between two conversations, as data sets have them.

Each layout is one function that makes votes of a record; a file has the first layout whose fields
its first record has. To add one: a function, and its line in ``LAYOUTS``. A record that a layout
cannot use, for example since it does not know the label, is counted by reason, with the place of
the first.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sage_core.corpus.readers.containers import read_json_rows
from sage_core.corpus.records import BadRecord
from sage_core.errors import DataError
from sage_core.schema import Message, Trajectory, TrajectoryTurn, Verdict

_RECORD_BYTES = 16 * 2**20
_PARQUET_MAGIC = b"PAR1"
_TURNED: dict[Verdict, Verdict] = {"model_a": "model_b", "model_b": "model_a"}

Messages = tuple[Message, ...]


@dataclass(frozen=True)
class Vote:
    """What one person said of two conversations.

    Attributes:
        group: what has the same conversations: votes of a group are of one item.
        names: of the two sides, so that a vote with the sides changed is of the same item; both ''
            where sides have no names.
    """

    group: str
    names: tuple[str, str]
    a: Messages
    b: Messages
    label: Verdict


@dataclass
class HumanItem:
    """Two conversations with all votes on them."""

    item_id: str
    a: Trajectory
    b: Trajectory
    votes: list[Verdict] = field(default_factory=list)

    @property
    def label(self) -> Verdict:
        """What most people prefer; a tie where no choice has more votes than each other one."""
        counts = {vote: self.votes.count(vote) for vote in self.votes}
        most = [vote for vote, count in counts.items() if count == max(counts.values())]
        return most[0] if len(most) == 1 else "tie"


@dataclass(frozen=True)
class HumanPreferences:
    """The items of a file.

    Attributes:
        layout: the name of the file's layout.
        records: all that the file has; each gave votes or is in ``unused``.
        unused: reason -> how many records, with the place of the first.
    """

    layout: str
    records: int
    items: tuple[HumanItem, ...]
    unused: dict[str, int]


class UnusedRecordError(Exception):
    """A record that gives no vote, with the reason."""


def read_human(path: Path) -> HumanPreferences:
    """The preferences in a file: JSON lines, a JSON array, or Parquet.

    Raises:
        DataError: the file is missing or unreadable, or has no layout that is known, or no record
            that can be used.
    """
    items: dict[str, HumanItem] = {}
    unused: dict[str, list[str]] = {}
    layout: str | None = None
    number = 0
    for number, (where, record) in enumerate(_records(path), start=1):
        if isinstance(record, BadRecord):
            unused.setdefault(record.reason, []).append(where)
            continue
        layout = layout or layout_of(record, path)
        try:
            votes = LAYOUTS[layout].votes(record, number)
        except UnusedRecordError as reason:
            unused.setdefault(str(reason), []).append(where)
            continue
        for vote in votes:
            _add(items, vote)
    found = {f"{reason} (first: {there[0]})": len(there) for reason, there in unused.items()}
    if not items:
        reasons = "; ".join(f"{count:,} x {reason}" for reason, count in found.items())
        raise DataError(
            f"'{path}' has no preference that can be used: {reasons or 'it is empty'}; known are "
            f"{KNOWN}"
        )
    assert layout is not None
    return HumanPreferences(layout, number, tuple(items.values()), found)


def layout_of(record: Mapping[str, Any], path: Path) -> str:
    """The layout of a file, by its first record.

    Raises:
        DataError: none has these fields.
    """
    for name, layout in LAYOUTS.items():
        if layout.fields <= record.keys():
            return name
    raise DataError(
        f"'{path}' has records with the fields {sorted(record)}, which are of no layout of human "
        f"preferences that is known; known are {KNOWN}"
    )


def _add(items: dict[str, HumanItem], vote: Vote) -> None:
    """Add a vote to its item, the sides in the item's order."""
    names = tuple(sorted(vote.names))
    item_id = "/".join(part for part in (vote.group, *names) if part)
    turned = vote.names != names
    label = _TURNED.get(vote.label, vote.label) if turned else vote.label
    if item_id not in items:
        a, b = (vote.b, vote.a) if turned else (vote.a, vote.b)
        items[item_id] = HumanItem(item_id, _trajectory(item_id, a), _trajectory(item_id, b))
    items[item_id].votes.append(label)


def _trajectory(item_id: str, messages: Messages) -> Trajectory:
    turns = tuple(TrajectoryTurn(each.role, each.content, ()) for each in messages)
    return Trajectory(item_id, item_id, messages[0].content, "", turns)


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any] | BadRecord]]:
    """Each record with its place; blank lines are none."""
    try:
        with path.open("rb") as stream:
            parquet = stream.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
        if parquet:
            for number, row in enumerate(pq.read_table(path).to_pylist()):
                yield f"row {number}", row
            return
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"'{path}' cannot be read as human preferences: {error}; give JSON lines, a JSON array "
            "or Parquet"
        ) from None
    for each in read_json_rows(path, path.name, _RECORD_BYTES):
        here = f"{path.name}, "
        if isinstance(each, BadRecord):
            yield each.where.removeprefix(here), each
        else:
            yield each.place.removeprefix(here), each.record


def _arena(record: Mapping[str, Any], number: int) -> list[Vote]:
    """MT-bench's and Chatbot Arena's: ``conversation_a``, ``conversation_b``, ``winner``. A vote on
    turn 1 is on the first exchange."""
    label = _label(record["winner"], {"model_a": "model_a", "model_b": "model_b", "tie": "tie"})
    exchanges = record.get("turn")
    a, b = (_conversation(record[f"conversation_{side}"]) for side in "ab")
    if isinstance(exchanges, int) and exchanges > 0:
        a, b = a[: 2 * exchanges], b[: 2 * exchanges]
    group = "/".join(
        str(record[key]) for key in ("question_id", "turn") if record.get(key) is not None
    )
    names = (str(record.get("model_a", "")), str(record.get("model_b", "")))
    return [Vote(group or str(number), names, a, b, label)]


def _llmbar(record: Mapping[str, Any], number: int) -> list[Vote]:
    """LLMBar's: ``input``, ``output_1``, ``output_2``, and the ``label`` 1 or 2."""
    label = _label(record["label"], {"1": "model_a", "2": "model_b"})
    a, b = (_exchange(record["input"], record[f"output_{side}"]) for side in (1, 2))
    return [Vote(str(number), ("", ""), a, b, label)]


def _pandalm(record: Mapping[str, Any], number: int) -> list[Vote]:
    """PandaLM's: ``response1``, ``response2``, and a label of each annotator: 1, 2, or 0 for a
    tie."""
    known: dict[str, Verdict] = {"0": "tie", "1": "model_a", "2": "model_b"}
    prompt = "\n".join(filter(None, (record["instruction"], record.get("input"))))
    a, b = (_exchange(prompt, record[f"response{side}"]) for side in (1, 2))
    annotators = sorted(key for key in record if key.startswith("annotator"))
    labels = [_label(record[key], known) for key in annotators]
    return [Vote(str(number), ("", ""), a, b, label) for label in labels]


def _chat(record: Mapping[str, Any], number: int) -> list[Vote]:
    """Chat preferences: ``chosen`` and ``rejected``, texts or messages, after a ``prompt`` if there
    is one. The chosen one is the first conversation of every other record."""
    prompt = record.get("prompt")
    chosen, rejected = (_after(prompt, record[key]) for key in ("chosen", "rejected"))
    if number % 2:
        return [Vote(str(number), ("", ""), chosen, rejected, "model_a")]
    return [Vote(str(number), ("", ""), rejected, chosen, "model_b")]


@dataclass(frozen=True)
class Layout:
    """The fields that tell a layout, and the votes of one of its records.

    ``votes`` takes the record and its number, from 1, and raises :class:`UnusedRecordError`.
    """

    fields: frozenset[str]
    votes: Callable[[Mapping[str, Any], int], list[Vote]]


LAYOUTS: dict[str, Layout] = {
    "MT-bench": Layout(frozenset({"conversation_a", "conversation_b", "winner"}), _arena),
    "LLMBar": Layout(frozenset({"input", "output_1", "output_2", "label"}), _llmbar),
    "PandaLM": Layout(frozenset({"instruction", "response1", "response2", "annotator1"}), _pandalm),
    "chat preferences": Layout(frozenset({"chosen", "rejected"}), _chat),
}
KNOWN = "; ".join(f"{name}: {', '.join(sorted(each.fields))}" for name, each in LAYOUTS.items())


def _label(value: Any, known: Mapping[str, Verdict]) -> Verdict:
    text = str(value).strip()
    if text not in known:
        shown = json.dumps(value, ensure_ascii=False, default=str)[:40]
        raise UnusedRecordError(f"label {shown}, not {' or '.join(known)}")
    return known[text]


def _after(prompt: Any, reply: Any) -> Messages:
    """A conversation of a prompt and a reply, each a text or messages; the reply's messages may
    repeat the prompt."""
    before = _messages(prompt) if isinstance(prompt, list) else ()
    if isinstance(reply, list):
        said = _conversation(reply)
        return said if said[: len(before)] == before else (*before, *said)
    if before:
        return (*before, Message("assistant", _text("reply", reply)))
    return _exchange(prompt, reply)


def _exchange(prompt: Any, reply: Any) -> Messages:
    return Message("user", _text("prompt", prompt)), Message("assistant", _text("reply", reply))


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UnusedRecordError(f"a {name} that is no text or empty")
    return value


def _conversation(messages: Any) -> Messages:
    """Messages with a reply among them."""
    found = _messages(messages)
    if not any(message.role == "assistant" for message in found):
        raise UnusedRecordError("a conversation without a reply")
    return found


def _messages(messages: Any) -> Messages:
    """Messages of users and assistants; those of the system are left out."""
    if not isinstance(messages, list) or not messages:
        raise UnusedRecordError("a conversation without messages")
    found = []
    for message in messages:
        said = message if isinstance(message, dict) else {}
        role, content = said.get("role"), said.get("content")
        if not isinstance(content, str) or role not in ("system", "user", "assistant"):
            raise UnusedRecordError("a message without role (system, user, assistant) and content")
        if role != "system":
            found.append(Message(role, content))
    return tuple(found)
