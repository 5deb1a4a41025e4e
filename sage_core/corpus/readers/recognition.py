"""Which layout the records of a file have, seen from the first ones."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from sage_core.config.corpus import ColumnsConfig, CorpusConfig
from sage_core.corpus.readers.conversations import listed
from sage_core.corpus.readers.fields import FieldError
from sage_core.corpus.readers.layouts import Exchange, MessageList, Shape, TextList, TurnRows
from sage_core.corpus.readers.reader import Recognised
from sage_core.corpus.readers.roles import known_role
from sage_core.corpus.readers.rows import Row
from sage_core.corpus.records import BadRecord, Record

SAMPLE = 100  # records that are looked at
_LISTS = ("messages", "conversations", "conversation", "chat_messages", "dialog", "dialogue",
          "utterances", "turns")  # fmt: skip
_USERS_ONLY = "turns"  # without roles it may hold a user's questions alone, as MT-bench's does
_ROLES = ("role", "from", "speaker", "sender", "author", "user")
_CONTENTS = ("content", "value", "text", "utterance", "message", "body")
_CONVERSATIONS = ("conversation_id", "conv_id", "dialogue_id", "dialog_id", "conversation",
                  "dialogue", "chat_id", "session_id", "thread_id")  # fmt: skip
_EXCHANGES = (  # prompt, query, response
    ("instruction", "input", "output"),
    ("instruction", "context", "response"),
    ("prompt", "", "completion"),
    ("prompt", "", "response"),
    ("question", "", "answer"),
    ("query", "", "response"),
)


def read_layout(
    rows: Iterable[Row | BadRecord], name: str, config: CorpusConfig
) -> Iterator[Record]:
    """The dialogues of rows, whose layout the settings name or the first ones show."""
    rows = iter(rows)
    head = list(islice(rows, SAMPLE))
    shape = layout_of(head, name, config)
    everything = chain(head, rows)
    if shape:
        yield from shape.records(everything)
        return
    for row in everything:
        yield (
            row if isinstance(row, BadRecord) else row.refused("missing_field", unknown_layout(row))
        )


def recognised(
    rows: Iterable[Row | BadRecord], name: str, config: CorpusConfig
) -> Recognised | None:
    """The layout of the first rows, with its columns and the roles in them; None: unknown."""
    head = list(islice(rows, SAMPLE))
    shape = layout_of(head, name, config)
    if shape is None:
        return None
    names = dict.fromkeys(
        speaker for row in head if isinstance(row, Row) for speaker in shape.speakers(row.record)
    )
    roles = {each: known_role(each, config.roles) or "unknown" for each in islice(names, 20)}
    return Recognised(shape.kind, dict(shape.columns), roles)


def layout_of(head: Sequence[Row | BadRecord], name: str, config: CorpusConfig) -> Shape | None:
    """The layout of the records of a file that begins with ``head``; None: none is known."""
    records = [row.record for row in head if isinstance(row, Row)]
    seen = {key for record in records for key, value in record.items() if value is not None}
    own = config.columns
    for recognise in (_messages, _rows, _exchange):
        if found := recognise(records, seen, own):
            kind, columns = found
            if own.id:
                columns["id"] = own.id
            return kind(columns, config.roles, name, config.max_record_bytes)
    return None


Found = tuple[type[Shape], dict[str, str]] | None


def _messages(records: Sequence[dict[str, Any]], seen: set[str], own: ColumnsConfig) -> Found:
    if own.prompt or own.conversation:
        return None
    columns = [own.messages] if own.messages else [each for each in _LISTS if each in seen]
    for column in columns:
        first = next(filter(None, (_first(record.get(column)) for record in records)), None)
        if isinstance(first, str) and (own.messages or column != _USERS_ONLY):
            return TextList, {"messages": column}
        if isinstance(first, dict):
            return MessageList, {
                "messages": column,
                "role": own.role or _one(_ROLES, first),
                "content": own.content or _one(_CONTENTS, first),
            }
    # Named like a list, but without one: an error of each record, unless it names conversations.
    column = next((each for each in columns if each != _USERS_ONLY), "")
    if not column or (column in _CONVERSATIONS and _texts_only(records, column)):
        return None
    return MessageList, {
        "messages": column, "role": own.role or "role", "content": own.content or "content"
    }  # fmt: skip


def _first(value: object) -> object:
    """The first element of a list, or of the JSON of one."""
    try:
        return next(iter(listed(value, "")), None)
    except FieldError:
        return None


def _texts_only(records: Iterable[Mapping[str, Any]], column: str) -> bool:
    """Whether a column of a list's name holds single values, as that of a table of turns does."""
    values = [record[column] for record in records if record.get(column) is not None]
    return all(isinstance(value, str | int) for value in values)


def _rows(records: Sequence[dict[str, Any]], seen: set[str], own: ColumnsConfig) -> Found:
    columns = {
        "conversation": own.conversation or _one(_CONVERSATIONS, seen, ""),
        "role": own.role or _one((*_ROLES, "speaker_id", "speaker_idx"), seen, ""),
        "content": own.content or _one(_CONTENTS, seen, ""),
    }
    together = any(
        all(record.get(name) is not None for name in columns.values()) for record in records
    )
    return (TurnRows, columns) if together else None


def _exchange(records: Sequence[dict[str, Any]], seen: set[str], own: ColumnsConfig) -> Found:
    if own.prompt and own.response:
        columns = {"prompt": own.prompt, "response": own.response}
        return Exchange, {**columns, **({"query": own.query} if own.query else {})}
    for prompt, query, response in _EXCHANGES:
        if {prompt, response} <= seen:
            columns = {"prompt": prompt, "response": response}
            return Exchange, {**columns, **({"query": query} if query in seen else {})}
    return None


def _one(known: Sequence[str], names: Iterable[str], default: str | None = None) -> str:
    names = {*names}
    return next((each for each in known if each in names), known[0] if default is None else default)


def unknown_layout(row: Row) -> str:
    """What is to be said of a record whose layout is not known."""
    detail = f"the fields {', '.join(map(str, row.record)):.200} are of no known layout"
    if isinstance(row.record.get(_USERS_ONLY), list):
        detail += (
            f"; '{_USERS_ONLY}' has no roles and may be a user's questions alone: set "
            f"corpus.columns.messages={_USERS_ONLY} if the speakers alternate in it"
        )
    return f"{detail}; name them in corpus.columns"
