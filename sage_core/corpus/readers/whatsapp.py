"""WhatsApp's export of a chat as a text file.

A message begins with its date, time and sender, ``31/12/23, 23:59 - Anna: Hi`` (Android) or
``[31.12.23, 23:59:59] Anna: Hi`` (iOS), in whichever order the telephone writes dates; the lines
that follow belong to it. Notices of the app have no sender, and media no text: both are left out.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import PurePath

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.lines import bad_record, is_utf8, read_lines
from sage_core.corpus.readers.people import Said, read_chats, recognised
from sage_core.corpus.readers.reader import Reader, Recognised, Source
from sage_core.corpus.records import BadRecord, Record

_HEAD = re.compile(
    r"\[?(?P<date>\d{1,4}[./-]\d{1,2}[./-]\d{1,4}),?(?:\s+[^\W\d]{1,2}\.?)?\s+"  # also "à", "kl."
    r"(?P<hour>\d{1,2})[:.](?P<minute>\d{2})(?:[:.](?P<second>\d{2}))?"
    r"(?:\s*(?P<half>[AaPp])\.?\s?[Mm]\.?)?(?:\]|\s+-)\s+(?P<rest>.*)",
    re.DOTALL,
)
_SENDER = re.compile(r"(?P<name>[^:\n]{1,80}): (?P<text>.*)", re.DOTALL)
_MEDIA = re.compile(
    r"<[^<>]*>|(?:image|video|audio|sticker|GIF|document|Contact card) omitted|"
    r"This message was deleted\.?|You deleted this message\.?|<attached: .*>"
)
_MARKS = dict.fromkeys(map(ord, "\u200e\u200f\u202a\u202c\ufeff"))  # directions of writing
_SAMPLE = 2000  # lines from which the order of dates is seen


def knows(path: PurePath) -> bool:
    """Whether a file of a folder may be a chat."""
    return path.suffix.lower() == ".txt"


def read(source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The dialogues of one chat."""
    return read_chats(partial(_messages, source, config), source, config)


def recognise(source: Source, config: CorpusConfig) -> Recognised | None:
    """The chat's speakers."""
    lines = islice(read_lines(source.file, source.name, config.max_record_bytes), 5)
    if not any(not isinstance(line, BadRecord) and _head(line[1]) for line in lines):
        return None
    return recognised("a WhatsApp chat", partial(_messages, source, config), config)


def _messages(source: Source, config: CorpusConfig) -> Iterator[Said | BadRecord]:
    order = _order(source, config)
    said: Said | None = None
    for line in read_lines(source.file, source.name, config.max_record_bytes):
        if isinstance(line, BadRecord):
            yield line
            continue
        number, raw = line
        head = _head(raw)
        place = f"{source.name}, line {number}"
        if not is_utf8(raw):
            yield bad_record("not_utf8", place, raw, "export again, or save the file as UTF-8")
            if said and head:
                yield said
            said = None  # the message that this line is of
            continue
        if head is None:
            if said:
                said = Said(said.speaker, said.time, f"{said.text}\n{_decoded(raw)}")
            elif number == 1:
                yield bad_record("wrong_type", place, raw, "it does not begin with a date")
            continue
        if said:
            yield said
        said = None
        time = _time(head, order)
        if time is None:
            yield bad_record("wrong_type", place, raw, f"'{head['date']}' is not a date")
        elif sender := _SENDER.fullmatch(head["rest"]):
            text = "" if _MEDIA.fullmatch(sender["text"].strip()) else sender["text"]
            said = Said(sender["name"], time, text)
    if said:
        yield said


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "replace").translate(_MARKS).rstrip("\r")


def _head(raw: bytes) -> re.Match[str] | None:
    return _HEAD.fullmatch(_decoded(raw))


def _order(source: Source, config: CorpusConfig) -> str:
    """Where year, month and day are in a date: a number over 12 is no month, and where none is,
    clocks of 12 hours are American."""
    american = False
    lines = read_lines(source.file, source.name, config.max_record_bytes)
    for line in islice(lines, _SAMPLE):
        if isinstance(line, BadRecord) or (head := _head(line[1])) is None:
            continue
        first, second, _ = re.split(r"[./-]", head["date"])
        if len(first) == 4:
            return "ymd"
        if int(first) > 12 or "." in head["date"]:
            return "dmy"
        if int(second) > 12:
            return "mdy"
        american = american or head["half"] is not None
    return "mdy" if american else "dmy"


def _time(head: re.Match[str], order: str) -> float | None:
    parts = dict(zip(order, map(int, re.split(r"[./-]", head["date"])), strict=True))
    year = parts["y"] + (2000 if parts["y"] < 100 else 0)
    hour = int(head["hour"])
    if half := head["half"]:
        hour = hour % 12 + 12 * (half in "pP")
    try:
        time = datetime(
            year, parts["m"], parts["d"], hour, int(head["minute"]), int(head["second"] or 0)
        )
    except ValueError:
        return None
    return (time - datetime(1970, 1, 1)).total_seconds()


READER = Reader(
    read,
    knows,
    "*.txt",
    reads="WhatsApp's exported chats (`_chat.txt`), of Android and iOS",
    recognise=recognise,
)
