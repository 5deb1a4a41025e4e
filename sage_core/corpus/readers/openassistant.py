"""OpenAssistant's conversation trees: the published trees as JSON lines, ``{"message_tree_id",
"prompt": {"message_id", "text", "role", "replies": [...]}}``, or the hub's tables of messages with
``message_id``, ``parent_id``, ``message_tree_id``, ``text``, ``role`` and ``deleted``.

Every path from the prompt to a last reply is a dialogue, named after its last message; the paths of
a tree are one thread. A deleted message ends the path before it. In tables the messages of a tree
follow each other; one that no path leads to, since the message before is missing, is refused.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.readers.containers import knows, read_rows
from sage_core.corpus.readers.conversations import Turn, dialogue
from sage_core.corpus.readers.fields import FieldError, identifier, needed, text, wrong
from sage_core.corpus.readers.reader import Reader, Recognised, Source
from sage_core.corpus.readers.roles import SYSTEM, role_of
from sage_core.corpus.readers.rows import Row
from sage_core.corpus.records import BadRecord, Record

_TREE = "message_tree_id"


def read(source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The paths of all trees of a file, tree by tree."""
    rows = read_rows(source.file, source.name, config.max_record_bytes)
    for tree in _trees(rows):
        if isinstance(tree, BadRecord):
            yield tree
            continue
        try:
            if "prompt" in tree[0].record:
                root = _object(tree[0].record["prompt"], "prompt")
            else:
                root, lost = _linked(tree)
                yield from lost
            for path in _paths(root):
                yield _dialogue(path, tree[0], source, config)
        except FieldError as error:
            yield tree[0].refused(error.reason, error.detail)


def recognise(source: Source, config: CorpusConfig) -> Recognised | None:
    """Whether its first record is of a tree."""
    first = next(read_rows(source.file, source.name, config.max_record_bytes), None)
    if not isinstance(first, Row) or _TREE not in first.record:
        return None
    return Recognised(
        "OpenAssistant's trees, every path a dialogue",
        roles={"prompter": "user", "assistant": "assistant"},
    )


def _trees(rows: Iterable[Row | BadRecord]) -> Iterator[list[Row] | BadRecord]:
    """The rows of each tree; one that is written as a whole is one row."""
    held: list[Row] = []
    for row in rows:
        if isinstance(row, BadRecord):
            yield row
            continue
        if held and _tree(row) != _tree(held[0]):
            yield held
            held = []
        held.append(row)
    if held:
        yield held


def _tree(row: Row) -> object:
    return row.number if "prompt" in row.record else row.record.get(_TREE, row.number)


def _linked(rows: list[Row]) -> tuple[dict[str, Any], list[BadRecord]]:
    """The prompt of a table's tree with its replies, and the messages that are not in it."""
    named: dict[str, dict[str, Any]] = {}
    row_of: dict[str, Row] = {}
    lost = []
    for row in rows:
        name = needed(identifier(row.record, "message_id"), "message_id")
        if name in named:
            lost.append(row.refused("wrong_type", f"'message_id' {name!r} is there already"))
            continue
        named[name] = {**row.record, "replies": []}
        row_of[name] = row
    root = None
    for message in named.values():
        parent = identifier(message, "parent_id")
        if not parent:
            root = root or message
        elif parent in named:
            named[parent]["replies"].append(message)
    if root is None:
        raise FieldError("missing_field", "no message of the tree has the 'parent_id' null")
    reached = set()
    waiting = [root]
    while waiting:
        message = waiting.pop()
        reached.add(identifier(message, "message_id"))
        waiting += message["replies"]
    lost += [
        row.refused("no_parent", "'parent_id' leads to no prompt of the tree")
        for name, row in row_of.items()
        if name not in reached
    ]
    return root, lost


def _paths(root: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    if _deleted(root):
        raise FieldError("no_turns", "the prompt is deleted")
    waiting = [[root]]
    while waiting:
        path = waiting.pop()
        replies = [each for each in _replies(path[-1]) if not _deleted(each)]
        if replies:
            waiting += [[*path, reply] for reply in reversed(replies)]
        else:
            yield path


def _dialogue(path: list[dict[str, Any]], row: Row, source: Source, config: CorpusConfig) -> Record:
    try:
        record = {
            "dialogue_id": needed(identifier(path[-1], "message_id"), "message_id"),
            "thread_id": needed(identifier(path[0], "message_id"), "message_id"),
        }
        turns = [_turn(message, config) for message in path]
        limit = config.max_record_bytes
        return dialogue(record, row.number, turns, source.name, limit, has_roles=True)
    except FieldError as error:
        return row.refused(error.reason, error.detail)


def _turn(message: dict[str, Any], config: CorpusConfig) -> Turn:
    name = text(message, "role")
    role = role_of(name, config.roles, "role")
    return (SYSTEM, name) if role == SYSTEM else (role, text(message, "text"))


def _deleted(message: dict[str, Any]) -> bool:
    """Of a message; in CSV a truth value is a text."""
    return str(message.get("deleted")).casefold() in ("true", "1")


def _object(value: object, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong(value, field, "an object")
    return value


def _replies(message: dict[str, Any]) -> Iterable[dict[str, Any]]:
    replies = message.get("replies") or []
    if not isinstance(replies, list) or not all(isinstance(each, dict) for each in replies):
        raise wrong(replies, "replies", "a list of messages")
    return replies


READER = Reader(
    read,
    knows,
    "*.jsonl or *.json, compressed or not, *.parquet, *.csv or *.tsv",
    reads="OpenAssistant's trees: the published JSON lines, or the hub's tables of messages",
    licence="Apache-2.0",
    recognise=recognise,
)
