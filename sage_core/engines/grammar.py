"""Grammars and schemas for constrained decoding. :data:`sage_core.states.LIMITS` says how long a
value can be."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sage_core.engines.base import Constraint
from sage_core.engines.steering import Force
from sage_core.sac import AGENT, USER
from sage_core.states import FIELDS, LIMITS

_RULES = r"""
root ::= {root}
{values}
word ::= [A-Za-z0-9] [A-Za-z0-9'-]{{0,{letters}}}
utterance ::= [^ \t\r\n\0{{}}] [^\0{{}}]*
""".strip()
_VALUE = "value"


def sac_grammar(forces: Sequence[Force] = ()) -> Constraint:
    """A State-Action Chain: both state groups well formed, then an utterance of at least one
    character and without braces, which are for states. ``null`` is among the values. A forced
    field holds its value as it is, also where no free value could have that form."""
    user, agent = (
        _group(prefix, (force for force in forces if force.speaker == speaker))
        for speaker, prefix in (("user", USER.written), ("agent", AGENT.written))
    )
    return Constraint("grammar", _rules(f"{user} {agent} utterance"), tuple(forces))


def action_grammar() -> Constraint:
    """The agent's state group alone, as it goes on behind the user's group in ``Request.prefix``
    (its closing brace the prefix's last character)."""
    return Constraint("grammar", _rules(f'" " {_group(AGENT.written)}'))


def user_grammar() -> Constraint:
    """The user's state group alone, as a reply opens with it."""
    return Constraint("grammar", _rules(_group(USER.written)))


def states_grammar() -> Constraint:
    """Both state groups without an utterance."""
    return Constraint("grammar", _rules(f"{_group(USER.written)} {_group(AGENT.written)}"))


def utterance_grammar() -> Constraint:
    """The utterance, as it goes on behind both groups in ``Request.prefix``; see
    :func:`action_grammar`."""
    return Constraint("grammar", _rules('" " utterance'))


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


def _rules(root: str) -> str:
    words = f'word (" " word){{0,{LIMITS.words - 1}}}'
    values = [f"{_VALUE} ::= {words}"]
    for field in FIELDS:
        if field.many:
            more = f'(", " {field.name}){{0,{field.most - 1}}}'
            values += [f"{field.plural} ::= ({field.name} {more})?", f"{field.name} ::= {words}"]
    return _RULES.format(root=root, values="\n".join(values), letters=LIMITS.letters - 1)


def _group(prefix: str, forces: Iterable[Force] = ()) -> str:
    """A state group and the space behind it: terms of the notation for its keys and its values."""
    forced = {force.field: json.dumps(", ".join(force.values), ensure_ascii=False)
              for force in forces}  # fmt: skip
    terms, before = [], "{"
    for field in FIELDS:
        opening, closing = ("[", "]") if field.many else ("", "")
        terms.append(f'"{before}{prefix}_{field.name}: {opening}"')
        terms.append(forced.get(field.name, field.plural if field.many else _VALUE))
        before = f"{closing}, "
    return " ".join([*terms, f'"{before.removesuffix(", ")}}} "'])
