"""Grammars and schemas for constrained decoding.

Values are short on purpose: a small model left alone writes a paragraph into a field.
"""

import json
from collections.abc import Sequence
from typing import Any

from sage_core.engines.base import Constraint

_SAC = r"""
root ::= {user} {agent} utterance
value ::= word (" " word){{0,2}}
topics ::= (topic (", " topic){{0,2}})?
topic ::= word (" " word){{0,2}}
word ::= [A-Za-z0-9] [A-Za-z0-9'-]{{0,15}}
utterance ::= [^ \t\r\n\0] [^\0]*
""".strip()
_GROUP = (
    '"{{{prefix}_motivation: " value ", {prefix}_emotion: " value '
    '", {prefix}_topic: [" topics "]}} "'
)


def sac_grammar() -> Constraint:
    """A State-Action Chain: both state groups well formed, then an utterance of at least one
    character. ``null`` is among the values."""
    groups = {"user": _GROUP.format(prefix="u"), "agent": _GROUP.format(prefix="a")}
    return Constraint("grammar", _SAC.format(**groups))


def json_schema(properties: dict[str, Any]) -> Constraint:
    """A JSON object with exactly ``properties``, in that order."""
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return Constraint("json_schema", json.dumps(schema))


def one_of(options: Sequence[str]) -> Constraint:
    """Exactly one of ``options``."""
    alternatives = " | ".join(json.dumps(option) for option in options)
    return Constraint("grammar", f"root ::= {alternatives}")
