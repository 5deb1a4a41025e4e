"""How a text that somebody wrote is shown inside a prompt, so that it cannot look like the prompt.

A turn that holds a line break and ``Conversation B:`` would else open a second conversation, and a
mark of a chat template would end the message. Both forms below are one line without such marks.
"""

import json
import re

# What JSON leaves as it is: line ends of Unicode, characters that reorder text, and halves of
# surrogate pairs, which cannot be sent.
_UNSEEN = "\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
# The first character of what may be a mark of a chat template: <|im_end|>, <think>, [INST],
# <<SYS>>, </s>, <start_of_turn>, ### Instruction
_MARK = r"<(?=[|\uff5c<!/\[]|\w[\w:-]*>)|\[(?=/?\w*[A-Z]{3,}\w*\])|◁|#(?=##)"
_ESCAPED = re.compile(rf"[{_UNSEEN}]|{_MARK}")


def quoted(text: str) -> str:
    """``text`` as a JSON string on one line, without the marks of chat templates."""
    return _ESCAPED.sub(_code, json.dumps(text, ensure_ascii=False))


def one_line(text: str) -> str:
    """``text`` with line breaks and marks escaped as in JSON, without the quotes around it.

    For prompts that a small model scores: most texts stay as they are.
    """
    return quoted(text)[1:-1].replace('\\"', '"').replace("\\\\", "\\")


def _code(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
