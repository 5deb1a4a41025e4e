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
from sage_core.corpus.readers.conversations import Turn, dialogue
from sage_core.corpus.readers.fields import FieldError, text, wrong
from sage_core.corpus.readers.reader import Reader, Recognised, Source
from sage_core.corpus.readers.roles import SYSTEM, role_of
from sage_core.corpus.readers.rows import records_of
from sage_core.corpus.records import Record
from sage_core.schema import Dialogue

_SHOWN = ("text", "multimodal_text")
_SPOKEN = "audio_transcription"  # a part: what was said in a voice conversation


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
    if not isinstance(leaf, str) or leaf not in nodes:
        # Older exports: the last one written without an answer.
        leaf = next((name for name in reversed(nodes) if not nodes[name].get("children")), "")
    turns = [_turn(node["message"], config) for node in branch(nodes, leaf, "parent")
             if isinstance(node.get("message"), dict)]  # fmt: skip
    return dialogue(
        record, number, turns, source.name, config.max_record_bytes, has_roles=True,
        id_column="" if record.get("id") else "conversation_id",
    )  # fmt: skip


def _turn(message: dict[str, Any], config: CorpusConfig) -> Turn:
    author, content = message.get("author"), message.get("content")
    if not isinstance(author, dict):
        raise wrong(author, "message.author", "an object")
    if not isinstance(content, dict):
        raise wrong(content, "message.content", "an object")
    name = text(author, "role", "message.author.")
    role = role_of(name, config.roles, "message.author.role")
    if role == SYSTEM:
        return SYSTEM, name
    if hidden := _hidden(message, content):
        return SYSTEM, hidden
    parts = content.get("parts")
    if not isinstance(parts, list):
        raise wrong(parts, "message.content.parts", "a list")
    texts = [written for part in parts if (written := _text(part)) is not None]
    if not texts and parts:
        raise FieldError("no_text", "'message.content.parts' has no text, only images or files")
    return role, "\n".join(texts)


def _hidden(message: dict[str, Any], content: dict[str, Any]) -> str:
    """What a message is that the page does not show; "" for one that it shows."""
    metadata = message.get("metadata")
    if isinstance(metadata, dict) and metadata.get("is_visually_hidden_from_conversation"):
        return "hidden"
    if message.get("recipient") not in (None, "all"):
        return "call of a tool"
    kind = content.get("content_type")
    return "" if kind in _SHOWN else str(kind)


def _text(part: object) -> str | None:
    """The text of a part; None for a picture or file."""
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("content_type") == _SPOKEN:
        return text(part, "text", "message.content.parts[].")
    return None


READER = Reader(
    read,
    knows,
    "*.json",
    reads="ChatGPT's exports (`conversations.json`), the branch shown last",
    recognise=recognise,
)
