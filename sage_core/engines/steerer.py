"""Steering at work: which logits change before a token of a state is drawn.

Nothing here knows the engine. A :class:`Steerer` is made once per tokenizer and steering; each
reply has a :class:`Row` that follows its text; :func:`apply` changes a batch of logits in place.
All comparisons are of bytes, so it does not matter how the tokenizer cuts a word, with or without
the space before it, or inside a character.
"""

import codecs
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, Self

import numpy as np
import torch

from sage_core.engines.state_tracker import Position, StateTracker
from sage_core.engines.steering import Force, Steering
from sage_core.errors import ConfigError
from sage_core.sac import AGENT, USER
from sage_core.states import FIELDS, LIMITS, NAMED

_NEVER = -float("inf")
_CACHED = 4096  # positions; a value seldom has more than ten tokens
_NEXT = {field.name: following.name for field, following in pairwise(FIELDS)}
_GROUPS = {
    "user": f"{{{USER.written}_{FIELDS[0].name}:",
    "agent": f" {{{AGENT.written}_{FIELDS[0].name}:",
}


class Vocabulary:
    """The text of every token, in bytes; special tokens have none. ``encode`` is the tokenizer's
    way to cut a text."""

    def __init__(
        self,
        texts: Sequence[bytes],
        special: Collection[int],
        encode: Callable[[str], list[int]] = lambda text: [],
    ) -> None:
        self._encode = encode
        self.special = [texts[token].decode() for token in sorted(special) if texts[token]]
        self.texts = [b"" if token in special else text for token, text in enumerate(texts)]
        self.folded = [text.decode(errors="replace").casefold() for text in self.texts]
        self.closing = [t for t, text in enumerate(self.folded) if re.search(r"[,}\]]", text)]
        self._ids: dict[bytes, list[int]] = {}
        for token, text in enumerate(self.texts):
            self._ids.setdefault(text, []).append(token)
        self._longest = max(map(len, self.texts))

    @classmethod
    def of(cls, tokenizer: Any, size: int) -> Self:
        """Of a Hugging Face tokenizer, for logits over ``size`` tokens."""
        import xgrammar

        info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=size)
        added = tokenizer.added_tokens_decoder.items()
        special = {token for token, what in added if what.special} | set(tokenizer.all_special_ids)
        return cls(
            info.decoded_vocab,
            special,
            lambda text: tokenizer.encode(text, add_special_tokens=False),
        )

    def starts_of(self, text: bytes) -> list[list[int]]:
        """The tokens that ``text`` starts with, shortest first; several where texts are equal."""
        ends = range(1, min(len(text), self._longest) + 1)
        return [self._ids[text[:end]] for end in ends if text[:end] in self._ids]

    def cut(self, text: str) -> dict[int, int]:
        """The tokenizer's own tokens of ``text`` by the byte they start at: as behind a colon where
        it opens with a space, else as at the start of a reply. Empty where their texts do not add
        up to it."""
        before = ":" if text.startswith(" ") else ""
        tokens = self._encode(before + text)
        if before and tokens and self.texts[tokens[0]].strip() == b":":
            tokens = tokens[1:]
        ends = list(accumulate(len(self.texts[token]) for token in tokens))
        if b"".join(self.texts[token] for token in tokens) != text.encode():
            return {}
        return dict(zip([0, *ends], tokens, strict=False))

    def check(self, steering: Steering) -> None:
        """
        Raises:
            ConfigError: no sequence of plain tokens reads a steered value, or it holds the text of
                a special token, which would end or open a turn when the reply is read again.
        """
        for keyword in (
            *(boost.keyword for boost in steering.boosts),
            *(value for force in steering.forces for value in force.values),
            *(ban.keyword for ban in steering.bans),
        ):
            self._check(keyword)

    def _check(self, keyword: str) -> None:
        if held := [text for text in self.special if text in keyword]:
            raise ConfigError(
                f"the keyword '{keyword}' holds '{held[0]}', a special token of the model's chat "
                "format; use plain words"
            )
        text = keyword.encode()
        reached = {0}
        for start in range(len(text)):
            if start in reached:
                reached.update(
                    start + len(self.texts[tokens[0]]) for tokens in self.starts_of(text[start:])
                )
        if len(text) not in reached:
            raise ConfigError(
                f"the model's tokenizer has no tokens for the keyword '{keyword}'; use a word of "
                "the characters that it knows"
            )


@dataclass(frozen=True)
class Edit:
    """What happens to the logits of one row: ``values`` are added to ``tokens``; with ``alone``,
    all other tokens become impossible."""

    tokens: np.ndarray[Any, np.dtype[np.int64]]
    values: np.ndarray[Any, np.dtype[np.float32]]
    alone: bool


class Row:
    """The text of one reply so far."""

    def __init__(self, prefix: str = "") -> None:
        self.tracker = StateTracker()
        self.tracker.feed(prefix)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, text: bytes) -> None:
        if not self.tracker.done:
            self.tracker.feed(self._decoder.decode(text))

    @property
    def pending(self) -> bytes:
        """The start of a character that is not complete yet."""
        return self._decoder.getstate()[0]


class Steerer:
    """What a steering does to the logits at each position of a reply.

    *Boost.* A token is raised if it writes the next part of the keyword: value so far + token is a
    start of the keyword, or the keyword and then what the format writes behind a value; one space
    before it is no part of it. So the end of the value is raised like any other part, and ``humor``
    is not drawn on into ``humorous``. A value that departed from the keyword is left alone, as is
    one already in the list. Where two keywords share a token, the higher of two raises counts,
    and a raise and a lowering add up.

    *Force.* The token that the tokenizer itself would write next is the only one possible, up to
    the next key or the group's end (the longest one, where the text stands inside such a token, as
    it may behind ``Request.prefix``). Without a grammar the rest of the states' skeleton is
    written likewise, since a reply without the field could not hold the forced value; values that
    are not forced stay free, but for braces, and a comma ends them. A value in ``Request.prefix``
    stands as it is.

    *Ban.* The tokens that would end the value where it is the banned one are impossible.

    Args:
        grammar: the reply is drawn under a grammar that holds the forces.

    Raises:
        ConfigError: the tokenizer cannot write a keyword.
    """

    def __init__(self, vocabulary: Vocabulary, steering: Steering, *, grammar: bool) -> None:
        vocabulary.check(steering)
        self.vocabulary = vocabulary
        self._boosts = [boost for boost in steering.boosts if boost.value]
        self._forces = {(force.speaker, force.field): force for force in steering.forces}
        self._bans = [(ban.speaker, ban.field, ban.keyword.casefold()) for ban in steering.bans]
        self._skeleton = bool(steering.forces) and not grammar
        self._everywhere = dict.fromkeys(self._too_much_at_once(), _NEVER)
        self._outside = _edit(self._everywhere) if self._everywhere else None
        self._inside = lru_cache(_CACHED)(self._edit_inside)
        self._literal = lru_cache(_CACHED)(self._edit_to_write)
        self._cut = lru_cache(vocabulary.cut)
        self._unfit = lru_cache(self._unfit_for)

    def edit(self, row: Row) -> Edit | None:
        """What to change before the row's next token is drawn."""
        tracker = row.tracker
        if tracker.done:
            return None
        position = tracker.position
        if position is not None:
            return self._inside(position, row.pending)
        if self._skeleton:
            speaker = "agent" if tracker.values else "user"
            written = tracker.lead.encode() + row.pending
            if (edit := self._literal(_GROUPS[speaker], written)) is not None:
                return edit
        return self._outside

    def _edit_inside(self, position: Position, pending: bytes) -> Edit | None:
        force = self._forces.get((position.speaker, position.field))
        if force is not None or self._skeleton:
            literal, written = self._required(position, force)
            if (edit := self._literal(literal, written.encode() + pending)) is not None:
                return edit
        added = dict(self._everywhere)
        if force is None:
            if self._skeleton:
                added |= self._unfit(position.field, _follow(position)[-1])
            for token in self._banned(position):
                added[token] = _NEVER
            for token, values in self._raised(position, pending).items():
                added[token] = added.get(token, 0) + max(0, *values) + min(0, *values)
        return _edit(added) if added else None

    def _required(self, position: Position, force: Force | None) -> tuple[str, str]:
        """What must be written here, and how much of it is; nothing is required where the value
        is free."""
        value, end = position.value, _follow(position)[-1]
        if force is not None:
            # More space before the value than the format writes comes from a prefix only.
            written = " " if value.isspace() else value
            return f" {force.written}{end.removeprefix(']')}", written
        if position.many and not value.strip():
            return " [", value
        _, closing, behind = value.rpartition("]" if position.many else ",")
        return (end, closing + behind) if closing else ("", "")

    def _edit_to_write(self, literal: str, written: bytes) -> Edit | None:
        """Only the token that goes on with ``literal``; None where the text has departed from it,
        or it is complete."""
        text = literal.encode()
        tokens = self.vocabulary.starts_of(text[len(written) :])
        if not tokens or not text.startswith(written):
            return None
        own = self._cut(literal).get(len(written))
        return _edit(dict.fromkeys(tokens[-1] if own is None else [own], 0.0), alone=True)

    def _raised(self, position: Position, pending: bytes) -> dict[int, list[float]]:
        """The boosts of each token that writes the next part of a keyword."""
        raised: dict[int, list[float]] = {}
        if not position.expected:
            return raised
        item = position.item
        written = item.lstrip().encode() + pending
        for boost in self._boosts:
            keyword = boost.keyword.encode()
            elsewhere = (boost.speaker, boost.field) != (position.speaker, position.field)
            if elsewhere or boost.keyword in position.earlier or not keyword.startswith(written):
                continue
            rests = [keyword[len(written) :] + end.encode() for end in _follow(position)]
            if not item and not pending:
                rests += [b" " + rest for rest in rests]
            starts = {token for rest in rests for ids in self._starts(rest) for token in ids}
            for token in starts:
                raised.setdefault(token, []).append(boost.value)
        return raised

    def _starts(self, rest: bytes) -> list[list[int]]:
        """The tokens that ``rest`` starts with. A space alone starts any value: it is among them
        only where no token holds it together with the keyword's start."""
        starts = self.vocabulary.starts_of(rest)
        alone = len(starts) > 1 and self.vocabulary.texts[starts[0][0]] == b" "
        return starts[1:] if alone else starts

    def _banned(self, position: Position) -> list[int]:
        """The tokens that would end the value, alone or in a list, where it is a banned one."""
        item = position.item.lstrip().casefold()
        ends = ",}]" if position.many else ",}"
        banned = []
        for speaker, field, keyword in self._bans:
            if (speaker, field) != (position.speaker, position.field) or not (
                keyword.startswith(item) or item.rstrip() == keyword
            ):
                continue
            # Where the grammar would let nothing but the end follow, the keyword itself is too far.
            full = LIMITS.reached_by(keyword)
            vocabulary = self.vocabulary
            for token in range(len(vocabulary.texts)) if full else vocabulary.closing:
                text = (item + vocabulary.folded[token]).lstrip()
                if text.startswith(keyword):
                    behind = text[len(keyword) :].lstrip()
                    if full or (behind and behind[0] in ends):
                        banned.append(token)
        return banned

    def _too_much_at_once(self) -> list[int]:
        """Tokens that hold a whole banned value with both its ends, or that end a value with a
        character begun in the token before; few tokenizers have any."""
        if not self._bans:
            return []
        keywords = "|".join(re.escape(keyword) for _, _, keyword in self._bans)
        whole = re.compile(rf"[:,\[]\s*\[?\s*(?:{keywords})\s*[,\]}}]")
        return [
            token
            for token in self.vocabulary.closing
            if whole.search(self.vocabulary.folded[token])
            or 0x80 <= self.vocabulary.texts[token][0] < 0xC0
        ]

    def _unfit_for(self, field: str, end: str) -> dict[int, float]:
        """Where the skeleton is written: what may not stand in a free value. That is every token
        with a character of the format, unless from there on it writes the value's end."""
        special = re.compile(rb"[{}\[\]:]" if NAMED[field].many else rb"[{},:]")
        unfit = {}
        for token, text in enumerate(self.vocabulary.texts):
            match = special.search(text)
            if not text or (match and not end.encode().startswith(text[match.start() :])):
                unfit[token] = _NEVER
        return unfit


def apply(logits: torch.Tensor, edits: Sequence[Edit | None]) -> None:
    """Change logits (R, V) in place; ``edits`` has one entry for each row."""
    edited = [(row, edit) for row, edit in enumerate(edits) if edit is not None]
    if not edited:
        return
    device = logits.device
    rows = np.repeat([row for row, _ in edited], [len(edit.tokens) for _, edit in edited])
    where = (
        torch.from_numpy(rows).to(device),
        torch.from_numpy(np.concatenate([edit.tokens for _, edit in edited])).to(device),
    )
    values = torch.from_numpy(np.concatenate([edit.values for _, edit in edited])).to(device)
    values = logits[where] + values
    if alone := [row for row, edit in edited if edit.alone]:
        logits[torch.tensor(alone, device=device)] = _NEVER
    logits[where] = values


def _edit(added: dict[int, float], *, alone: bool = False) -> Edit:
    return Edit(np.array(list(added), np.int64), np.array(list(added.values()), np.float32), alone)


def _follow(position: Position) -> tuple[str, ...]:
    """What the format writes behind a value; the last one ends the field."""
    following = _NEXT.get(position.field)
    end = f", {position.prefix}_{following}:" if following else "}"
    return (", ", f"]{end}") if position.many else (end,)
