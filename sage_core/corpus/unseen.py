"""Which dialogues of a corpus are new: those whose messages no known corpus has.

Dialogues are told apart by their messages. Their ids follow from file names and line numbers, which
change when a file is moved or grows.
"""

from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.build import drawn_dialogues
from sage_core.corpus.records import DIALOGUES
from sage_core.corpus.tables import read_dialogues
from sage_core.schema import Dialogue
from sage_core.storage import canonical_json


def content(dialogue: Dialogue) -> str:
    """A hash of who says what; memory holds one for each known dialogue."""
    said = [[message.role, message.content] for message in dialogue.messages]
    return blake2b(canonical_json(said).encode(), digest_size=12).hexdigest()


def unseen_dialogues(
    corpus: Path, known: Iterable[Path], config: CorpusConfig, seed: int
) -> list[Dialogue]:
    """The kept dialogues of the training split that no corpus in ``known`` has: at most
    ``max_dialogues``, drawn and cut as for a first training. May be empty."""
    seen = {content(dialogue) for each in known for dialogue in read_dialogues(each / DIALOGUES)}
    new = {
        place: dialogue.dialogue_id
        for place, dialogue in enumerate(read_dialogues(corpus / DIALOGUES))
        if dialogue.split == "train" and content(dialogue) not in seen
    }
    return drawn_dialogues(corpus, new, config, seed)
