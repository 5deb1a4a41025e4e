"""What a reader is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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


Read = Callable[[Source, CorpusConfig], Iterator[Record]]


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
    """

    read: Read
    knows: Callable[[PurePath], bool] = _any_file
    files: str = "all files"
    posts: bool = False
    whole: bool = False
    package: str = ""
    licence: str = ""
