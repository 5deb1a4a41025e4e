"""Special tokens of the chat template, kept apart from what a speaker wrote.

A template joins special tokens and contents into one text, so a content that spells one
(``<|im_end|>``, ``[/INST]``) would end its own turn. Those that the tokenizer has as tokens are cut
in two before it sees them, and so become plain text. Those that are plain text to the tokenizer,
like Mixtral's ``[INST]``, have the same tokens whoever writes them: they get a space inside.
Contents without special tokens are encoded as the trainer encodes them.
"""

import re
from typing import Any

from sage_core.engines.template import ChatTemplate

_CUT = "\ufdd0\ufdd1"  # noncharacters: no text has them
_TEXTUAL = re.compile(r"\[/?[A-Z_]+\]|<<?/?\w+>?>|<\|\w+\|>")
_ANY = re.compile(r"(?=<\|\w+\|>|\[/?INST\]|<<?/?SYS>>?|</?s>|<(?:start|end)_of_turn>)(.)")


def spaced(content: str) -> str:
    """The content with a space inside what may be a special token, for a model whose special tokens
    are not known."""
    return _ANY.sub(r"\1 ", content)


class SpecialTokens:
    """The special tokens of a tokenizer's chat template."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        skeleton = ChatTemplate(tokenizer).skeleton()
        source = tokenizer.get_chat_template()  # it may cut a content at a token (</think>)
        tokens = {
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if token.special
            or (token.content.strip() and (token.content in skeleton or token.content in source))
        } | set(tokenizer.all_special_tokens)
        self._tokens = _start_of(tokens)
        self._words = _start_of(set(_TEXTUAL.findall(skeleton)) - tokens)

    def shield(self, content: str) -> str:
        """The content as it goes into the template; :meth:`encode` must read the result."""
        content = self._words.sub(r"\1 ", content.replace(_CUT, ""))
        return self._tokens.sub(rf"\1{_CUT}", content)

    def encode(self, text: str) -> list[int]:
        """Token ids of a rendered template with shielded contents."""
        pieces = text.split(_CUT)
        encode = self._tokenizer.encode
        return [token for piece in pieces for token in encode(piece, add_special_tokens=False)]

    def encode_with_places(self, text: str) -> tuple[list[int], list[int]]:
        """As :meth:`encode`, and the place in ``text`` of each token's last character."""
        ids: list[int] = []
        places: list[int] = []
        start = 0
        for piece in text.split(_CUT):
            encoded = self._tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
            ids += encoded["input_ids"]
            places += [start + max(first, end - 1) for first, end in encoded["offset_mapping"]]
            start += len(piece) + len(_CUT)
        return ids, places


def _start_of(special: set[str]) -> re.Pattern[str]:
    """The first character of each, overlapping ones too; nothing where there are none."""
    spelt = "|".join(map(re.escape, sorted(special))) or "(?!)"
    return re.compile(f"(?=(?:{spelt}))(.)", re.DOTALL)
