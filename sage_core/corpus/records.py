"""What readers yield: whole dialogues, or the posts of reply trees, and the records they refuse;
and the funnel that counts what became of them."""

import re
from dataclasses import dataclass
from typing import TypedDict

from sage_core.schema import Dialogue

DIALOGUES = "dialogues.parquet"
REJECTED = "rejected.parquet"
FUNNEL = "funnel.json"
SYSTEM = "system"  # the role of messages that are left out
SAMPLE_CHARACTERS = 200
_GONE = re.compile(
    r"\[\s*(?:deleted|removed|unavailable|deleted by user|removed by reddit)\s*\]", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Post:
    """One post of a reply tree: a Reddit comment or submission, a ConvoKit utterance.

    Attributes:
        post_id: unique in its source; what ``parent_id`` of other posts names.
        parent_id: the post it answers; "" for the first post of a tree.
        thread_id: the conversation it belongs to, the same for all posts of a tree.
        author: "" where it is not known (a deleted account).
        created: seconds since 1970; orders siblings together with ``post_id``.
        source: where it was said, such as ``r/AskReddit``.
        text: what was said; :mod:`sage_core.corpus.threads` takes out what :func:`is_gone`.
    """

    post_id: str
    parent_id: str
    thread_id: str
    author: str
    created: int
    source: str
    text: str


def is_gone(text: str) -> bool:
    """Whether a text only says that there is none: ``[deleted]``, ``[ Removed by Reddit ]``."""
    said = text.strip()
    return said[:1] == "[" and _GONE.fullmatch(said) is not None  # first what costs little


@dataclass(frozen=True)
class BadRecord:
    """A record that a reader could not take.

    Attributes:
        reason: one word or two with underscores: ``not_json``, ``not_utf8``, ``not_text``,
            ``missing_field``, ``wrong_type``, ``unknown_role``, ``too_long``, ``truncated``,
            ``scattered``, ``no_text``, ``no_turns``, ``no_agent``, ``no_parent``, ``parent_cycle``.
        where: file and line (from 1), such as ``RC_2012-01.zst, line 7``; the file's name only,
            so that outputs do not depend on where the input is.
        sample: the first characters of the record, at most ``SAMPLE_CHARACTERS``.
        detail: which field or value is wrong, in words; "" where the reason says it all.
    """

    reason: str
    where: str
    sample: str
    detail: str = ""

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.where} ({self.reason}{detail}): {self.sample[:80]!r}"


Record = Dialogue | Post | BadRecord


class FunnelStep(TypedDict, total=False):
    """One step of the funnel, in dialogues.

    The first step, ``read``, has ``quarantined``, the bad records, and ``records``: what
    became of the input's records, of which the posts of reply trees make up several a dialogue;
    ``empty``, the files without a record; and ``left_out``, the messages of dialogues that are left
    out, by their role, or ``blank``. ``not_applied``, where it is not 0: the dialogues
    that the step's rule is not about, by their language; they passed.
    """

    step: str
    kept: int
    dropped: int
    quarantined: int
    not_applied: int
    records: dict[str, int]
    empty: list[str]
    left_out: dict[str, int]
