"""What a reader is."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.records import Record


@dataclass(frozen=True)
class Source:
    """A part of the input that is read by itself.

    Attributes:
        path: its file; of a reader with ``whole`` a folder or a name on the hub, of one with
            ``package`` None.
        name: the path relative to ``corpus.input``; a single file's own name.
    """

    path: Path | None
    name: str

    @property
    def file(self) -> Path:
        """``path`` of a source that is a file."""
        assert self.path is not None, f"the source '{self.name}' has no file"
        return self.path


@dataclass(frozen=True)
class Recognised:
    """What a reader sees in the first records of a source.

    Attributes:
        layout: what they are, in words.
        columns: what a field is for -> its name.
        roles: a role or speaker as the records name it -> user, assistant, system (left out) or
            unknown.
    """

    layout: str
    columns: Mapping[str, str] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)


Read = Callable[[Source, CorpusConfig], Iterator[Record]]
Recognise = Callable[[Source, CorpusConfig], Recognised | None]


def _unseen(source: Source, config: CorpusConfig) -> Recognised | None:
    return None


def _any_file(path: PurePath) -> bool:
    return True


@dataclass(frozen=True)
class Reader:
    """How one format is read.

    Attributes:
        read: the records of one source, in its order. It yields a ``BadRecord`` for what it cannot
            take, and raises nothing for that.
        knows: whether a file of a folder is of this format.
        files: the same in words, for messages.
        posts: whether its records are the posts of reply trees instead of dialogues.
        whole: whether ``corpus.input`` is one source as it is, a folder or a name on a hub.
        package: the installed package that the data are in; there is no ``corpus.input`` then.
        licence: of a data set that has a reader of its own; of others the user names it.
        reads: what it reads in words, for the documentation.
        recognise: what it sees in the first records; None where they are not of its format. Of a
            source with ``whole`` or ``package`` it is not asked for the reader to take.
    """

    read: Read
    knows: Callable[[PurePath], bool] = _any_file
    files: str = "all files"
    posts: bool = False
    whole: bool = False
    package: str = ""
    licence: str = ""
    reads: str = ""
    recognise: Recognise = _unseen
