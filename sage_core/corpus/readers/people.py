"""Chats of people, as their apps export them: a stream of messages, cut into dialogues.

A pause over ``corpus.pause_hours`` begins a new dialogue. ``corpus.roles`` says whose turns are the
assistant's; everybody else is the user, or left out where it says ``system``. What is taken of a
dialogue is as in :func:`sage_core.corpus.readers.conversations.taken`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.lines import bad_record
from sage_core.corpus.readers.conversations import BLANK, Turn, taken
from sage_core.corpus.readers.reader import Recognised, Source
from sage_core.corpus.readers.roles import ASSISTANT, SYSTEM, USER
from sage_core.corpus.records import BadRecord, Record
from sage_core.errors import DataError
from sage_core.schema import Dialogue

_LISTED = 10_000  # messages that are looked at for the list of speakers
_SHOWN = 20  # speakers in a message


@dataclass(frozen=True, slots=True)
class Said:
    """A message.

    Attributes:
        speaker: as the export shows the name.
        time: in seconds, from any moment on.
        text: what was said; empty for a picture and the like.
        chat: what tells chats of one file from each other.
    """

    speaker: str
    time: float
    text: str
    chat: str = ""


Messages = Callable[[], Iterator[Said | BadRecord]]


def read_chats(messages: Messages, source: Source, config: CorpusConfig) -> Iterator[Record]:
    """The dialogues of a source; ``messages`` opens its stream.

    Bad records: those of the stream, and ``no_agent`` for a dialogue without the assistant.

    Raises:
        DataError: ``corpus.roles`` names no assistant; the message lists the speakers.
    """
    _check_roles(messages, source, config)
    dialogue = _Running()
    number = 0
    for said in messages():
        if isinstance(said, BadRecord):
            yield said
            continue
        role = config.roles.get(said.speaker, USER)
        if role == SYSTEM:
            dialogue.left_out.append(said.speaker)
            continue
        if not said.text.strip():
            dialogue.left_out.append(BLANK)
            continue
        if dialogue.ends_before(said, config):
            number += 1
            yield dialogue.record(source.name, number)
            dialogue = _Running()
        dialogue.add(said, role)
    if dialogue.turns:
        yield dialogue.record(source.name, number + 1)


def recognised(layout: str, messages: Messages, config: CorpusConfig) -> Recognised:
    """The speakers of a chat, with their roles."""
    roles = {name: config.roles.get(name, USER) for name, _ in _speakers(messages)[:_SHOWN]}
    if ASSISTANT not in config.roles.values():
        roles = dict.fromkeys(roles, "unknown")
    return Recognised(layout, {}, roles)


@dataclass
class _Running:
    """A dialogue under way."""

    turns: list[Turn] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    speakers: Counter[str] = field(default_factory=Counter)
    chat: str = ""
    time: float = 0.0
    length: int = 0

    def ends_before(self, said: Said, config: CorpusConfig) -> bool:
        return bool(self.turns) and (
            said.chat != self.chat
            or said.time - self.time > 3600 * config.pause_hours
            or self.length + len(said.text) > config.max_record_bytes
        )

    def add(self, said: Said, role: str) -> None:
        self.turns.append((role, said.text))
        self.speakers[said.speaker] += 1
        self.chat, self.time = said.chat, said.time
        self.length += len(said.text)

    def record(self, name: str, number: int) -> Record:
        dialogue_id = f"{name}-{number}"
        if all(role != ASSISTANT for role, _ in self.turns):
            detail = f"the assistant says nothing here; speakers: {_listed(self.speakers.items())}"
            sample = self.turns[0][1].encode("utf-8", "replace")
            return bad_record("no_agent", f"{name}, dialogue {number}", sample, detail)
        messages, _ = taken(self.turns)
        return Dialogue(
            dialogue_id, name, dialogue_id, messages, has_roles=True, left_out=tuple(self.left_out)
        )


def _check_roles(messages: Messages, source: Source, config: CorpusConfig) -> None:
    if ASSISTANT in config.roles.values():
        return
    speakers = _speakers(messages)
    if speakers:
        raise DataError(
            f"'{source.name}' is a chat of people: corpus.roles has to say who is the assistant. "
            f"The speakers are {_listed(speakers)}; set for instance "
            f"corpus.roles={{{speakers[0][0]}: assistant}}"
        )


def _speakers(messages: Messages) -> list[tuple[str, int]]:
    """The speakers of the first messages with their number, most frequent first."""
    said = (each for each in messages() if isinstance(each, Said))
    return Counter(each.speaker for each in islice(said, _LISTED)).most_common()


def _listed(speakers: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{name} ({count} messages)" for name, count in islice(speakers, _SHOWN))
