"""Grammars and schemas for constrained decoding.

Values are short on purpose: a small model left alone writes a paragraph into a field, or a word
without an end. The longest word is longer than any word that is one token: where a token can pass
the bound, xgrammar has to try thousands of them one by one, at each step of each row.
"""

import json
from collections.abc import Sequence
from typing import Any

from sage_core.engines.base import Constraint
from sage_core.engines.steering import Force

_RULES = r"""
root ::= {root}
value ::= word (" " word){{0,2}}
topics ::= (topic (", " topic){{0,2}})?
topic ::= word (" " word){{0,2}}
word ::= [A-Za-z0-9] [A-Za-z0-9'-]{{0,23}}
utterance ::= [^ \t\r\n\0{{}}] [^\0{{}}]*
""".strip()
_GROUP = (
    '"{{{prefix}_motivation: " {motivation} ", {prefix}_emotion: " {emotion} '
    '", {prefix}_topic: [" {topic} "]}} "'
)


def sac_grammar(forces: Sequence[Force] = ()) -> Constraint:
    """A State-Action Chain: both state groups well formed, then an utterance of at least one
    character and without braces, which are for states. ``null`` is among the values. A forced
    field holds its value as it is, also where no free value could have that form."""
    groups = {}
    for speaker, prefix in (("user", "u"), ("agent", "a")):
        fields = {"motivation": "value", "emotion": "value", "topic": "topics"}
        for force in forces:
            if force.speaker == speaker:
                text = ", ".join(force.values)
                fields[force.field] = json.dumps(text, ensure_ascii=False)
        groups[speaker] = _GROUP.format(prefix=prefix, **fields)
    rules = _RULES.format(root="{user} {agent} utterance".format(**groups))
    return Constraint("grammar", rules, tuple(forces))


def action_grammar() -> Constraint:
    """The agent's state group alone, as it goes on behind the user's group in ``Request.prefix``
    (its closing brace the prefix's last character)."""
    group = _GROUP.format(prefix="a", motivation="value", emotion="value", topic="topics")
    return Constraint("grammar", _RULES.format(root=f'" " {group}'))


def user_grammar() -> Constraint:
    """The user's state group alone, as a reply opens with it."""
    group = _GROUP.format(prefix="u", motivation="value", emotion="value", topic="topics")
    return Constraint("grammar", _RULES.format(root=group))


def states_grammar() -> Constraint:
    """Both state groups without an utterance."""
    fields = {"motivation": "value", "emotion": "value", "topic": "topics"}
    groups = (_GROUP.format(prefix=prefix, **fields) for prefix in ("u", "a"))
    return Constraint("grammar", _RULES.format(root=" ".join(groups)))


def utterance_grammar() -> Constraint:
    """The utterance, as it goes on behind both groups in ``Request.prefix``; see
    :func:`action_grammar`."""
    return Constraint("grammar", _RULES.format(root='" " utterance'))


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


def led(rules: str, lead: str) -> str:
    """Rules that accept ``lead``, a term of the notation, before what ``rules`` accept."""
    return f"root ::= {lead} reply\n{rules.replace('root ::=', 'reply ::=', 1)}"
