"""OpenAssistant's conversation trees: the published trees as JSON lines, ``{"message_tree_id",
"prompt": {"message_id", "text", "role", "replies": [...]}}``, or the hub's tables of messages with
``message_id``, ``parent_id``, ``message_tree_id``, ``text``, ``role`` and ``deleted``.

Every path from the prompt to a last reply is a dialogue, named after its last message; the paths of
a tree are one thread. A deleted message ends the path before it. In tables the messages of a tree
stand together.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.readers.containers import Row, knows, read_rows
from sage_core.corpus.readers.conversations import joined
from sage_core.corpus.readers.fields import FieldError, identifier, needed, text, wrong
from sage_core.corpus.readers.reader import Reader, Recognised, Source
from sage_core.corpus.readers.roles import role_of
from sage_core.corpus.records import BadRecord, Record
from sage_core.schema import Dialogue

_TREE = "message_tree_id"


def read(source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The paths of all trees of a file, tree by tree."""
    rows = read_rows(source.file, source.name, config.max_record_bytes)
    for _, of_tree in groupby(rows, _tree):
        together = list(of_tree)
        first = together[0]
        if isinstance(first, BadRecord):
            yield from (row for row in together if isinstance(row, BadRecord))
            continue
        try:
            yield from _dialogues(_root([row.record for row in together if isinstance(row, Row)]),
                                  source.name, config)  # fmt: skip
        except FieldError as error:
            yield first.refused(error.reason, error.detail)


def recognise(source: Source, config: CorpusConfig) -> Recognised | None:
    """Whether its first record is of a tree."""
    first = next(read_rows(source.file, source.name, config.max_record_bytes), None)
    if not isinstance(first, Row) or _TREE not in first.record:
        return None
    return Recognised(
        "OpenAssistant's trees, every path a dialogue",
        roles={"prompter": "user", "assistant": "assistant"},
    )


def _tree(row: Row | BadRecord) -> object:
    return row.where if isinstance(row, BadRecord) else row.record.get(_TREE, row.number)


def _root(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The prompt of a tree with its replies."""
    if "prompt" in records[0]:
        prompt = records[0]["prompt"]
        if not isinstance(prompt, dict):
            raise wrong(prompt, "prompt", "an object")
        return prompt
    named = {needed(identifier(each, "message_id"), "message_id"): each for each in records}
    root = None
    for message in named.values():
        message["replies"] = []
    for message in named.values():
        parent = message.get("parent_id")
        if parent is None:
            root = message
        elif parent in named:
            named[parent]["replies"].append(message)
    if root is None:
        raise FieldError("missing_field", "no message of the tree has the 'parent_id' null")
    return root


def _dialogues(root: dict[str, Any], name: str, config: CorpusConfig) -> Iterator[Dialogue]:
    tree_id = needed(identifier(root, "message_id"), "message_id")
    waiting: list[list[dict[str, Any]]] = [[root]]
    while waiting:
        path = waiting.pop()
        replies = [each for each in _replies(path[-1]) if not each.get("deleted")]
        if replies:
            waiting += [[*path, reply] for reply in reversed(replies)]
            continue
        turns = [(role_of(text(each, "role"), config.roles, "role"), text(each, "text"))
                 for each in path]  # fmt: skip
        dialogue_id = needed(identifier(path[-1], "message_id"), "message_id")
        yield Dialogue(dialogue_id, name, tree_id, tuple(joined(turns)), has_roles=True)


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
