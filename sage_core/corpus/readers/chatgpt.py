"""ChatGPT's data export (``conversations.json``): an array of conversations, each a tree of
messages under ``mapping``, of which the branch that ends in ``current_node`` is read.

What the page does not show is left out: system messages, calls and results of tools, thoughts, the
user's profile, and messages that are marked as hidden.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.readers.app_json import first_of, knows
from sage_core.corpus.readers.branches import branch
from sage_core.corpus.readers.containers import read_json_rows
from sage_core.corpus.readers.conversations import Turn, dialogue, joined, records_of
from sage_core.corpus.readers.fields import FieldError, text, wrong
from sage_core.corpus.readers.reader import Reader, Recognised, Source
from sage_core.corpus.readers.roles import SYSTEM, role_of
from sage_core.corpus.records import Record
from sage_core.schema import Dialogue

_SHOWN = ("text", "multimodal_text")


def read(source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The conversations of one export."""
    rows = read_json_rows(source.file, source.name, config.max_record_bytes)
    return records_of(rows, partial(_dialogue, source, config))


def recognise(source: Source, config: CorpusConfig) -> Recognised | None:
    """Whether it is an export."""
    if "mapping" not in first_of(source, ""):
        return None
    return Recognised(
        "a ChatGPT export, the branch shown last of each conversation",
        roles={"user": "user", "assistant": "assistant", "system": SYSTEM, "tool": SYSTEM},
    )


def _dialogue(
    source: Source, config: CorpusConfig, record: dict[str, Any], number: int
) -> Dialogue:
    mapping = record.get("mapping")
    if not isinstance(mapping, dict):
        raise wrong(mapping, "mapping", "an object")
    nodes = {name: node for name, node in mapping.items() if isinstance(node, dict)}
    leaf = record.get("current_node")
    if leaf not in nodes:  # older exports: the last one written without an answer
        leaf = next((name for name in reversed(nodes) if not nodes[name].get("children")), "")
    turns = [_turn(node["message"], config) for node in branch(nodes, str(leaf), "parent")
             if isinstance(node.get("message"), dict)]  # fmt: skip
    spoken = joined(turn for turn in turns if turn and turn[1].strip())
    return dialogue(
        record, number, spoken, source.name, config.max_record_bytes, has_roles=True,
        id_column="" if record.get("id") else "conversation_id",
    )  # fmt: skip


def _turn(message: dict[str, Any], config: CorpusConfig) -> Turn | None:
    author, content = message.get("author"), message.get("content")
    if not isinstance(author, dict):
        raise wrong(author, "message.author", "an object")
    if not isinstance(content, dict):
        raise wrong(content, "message.content", "an object")
    field = "message.author.role"
    role = role_of(text(author, "role", "message.author."), config.roles, field)
    hidden = (message.get("metadata") or {}).get("is_visually_hidden_from_conversation")
    to_tool = message.get("recipient") not in (None, "all")
    if role == SYSTEM or hidden or to_tool or content.get("content_type") not in _SHOWN:
        return None
    parts = content.get("parts")
    if not isinstance(parts, list):
        raise wrong(parts, "message.content.parts", "a list")
    texts = [part for part in parts if isinstance(part, str)]
    if not texts and parts:
        raise FieldError("no_text", "'message.content.parts' has no text, only images or files")
    return role, "\n".join(texts)


READER = Reader(
    read,
    knows,
    "*.json",
    reads="ChatGPT's exports (`conversations.json`), the branch shown last",
    recognise=recognise,
)
