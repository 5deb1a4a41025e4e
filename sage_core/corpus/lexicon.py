"""VADER's lexicon: NLTK's own where its data are installed, else that of ``vaderSentiment``.

They differ in a few words (``heart``, ``:P``, ``flawed``), and so in the score of one utterance in
five hundred. The paper used NLTK's, which ``nltk.download("vader_lexicon")`` installs. It is looked
for where NLTK does; NLTK itself takes two seconds to import.
"""

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from zipfile import BadZipFile, ZipFile

_ARCHIVE = "sentiment/vader_lexicon.zip"
_MEMBER = "vader_lexicon/vader_lexicon.txt"


@dataclass(frozen=True)
class Lexicon:
    """A lexicon as it is installed.

    Attributes:
        of: the package that it is of.
        content: its lines, words with their valences.
        folder: where it was found; of the archive, the folder of NLTK's data.
    """

    of: str
    content: bytes
    folder: Path

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@cache
def installed() -> Lexicon:
    """The lexicon that sentiment is scored with on this machine."""
    for folder in nltk_folders():
        if (content := _of_nltk(folder)) is not None:
            return Lexicon("nltk", content, folder)
    package = resources.files("vaderSentiment")
    content = package.joinpath("vader_lexicon.txt").read_bytes()
    return Lexicon("vaderSentiment", content, Path(str(package)))


def nltk_folders() -> Iterator[Path]:
    """Where NLTK looks for its data, in its order."""
    for path in os.environ.get("NLTK_DATA", "").split(os.pathsep):
        if path:
            yield Path(path).expanduser()
    yield Path("~/nltk_data").expanduser()
    prefix = Path(sys.prefix)
    yield from (prefix / "nltk_data", prefix / "share/nltk_data", prefix / "lib/nltk_data")
    if sys.platform == "win32":
        drives = (os.environ.get("APPDATA", "C:\\"), "C:\\", "D:\\", "E:\\")
        yield from (Path(drive) / "nltk_data" for drive in drives)
    else:
        places = ("/usr/share", "/usr/local/share", "/usr/lib", "/usr/local/lib")
        yield from (Path(place) / "nltk_data" for place in places)


def _of_nltk(folder: Path) -> bytes | None:
    """The lexicon among NLTK's data, as a zip or unpacked."""
    try:
        if (archive := folder / _ARCHIVE).is_file():
            with ZipFile(archive) as file:
                return file.read(_MEMBER)
        if (unpacked := folder / "sentiment" / _MEMBER).is_file():
            return unpacked.read_bytes()
    except (OSError, KeyError, BadZipFile):
        pass  # damaged: as good as not there
    return None
