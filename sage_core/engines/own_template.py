"""The model's own chat template, as SAGE uses it: the same text, with its arguments fixed in it.

What a template is given besides the conversation is set in its first lines, so that training, every
engine and an exported model render alike. They set:

- ``model.chat_template_arguments``;
- the date, where the template writes one, since what a step makes must not depend on the day;
- ``eos_token``, where the tokenizer's is not the token that the template ends a reply with. The
  latter becomes the tokenizer's, so that every engine stops at it.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sage_core.engines import prompts
from sage_core.engines.template import ChatTemplate, difference
from sage_core.errors import ConfigError, DataError
from sage_core.schema import Message

_CONVERSATION = {"messages", "tools", "documents", "add_generation_prompt"}
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")  # transformers' own tag
_DAY = {"%Y": "2024", "%y": "24", "%m": "07", "%B": "July", "%b": "Jul", "%d": "26",
        "%A": "Friday", "%a": "Fri", "%H": "00", "%M": "00", "%S": "00"}  # fmt: skip
"""The day that Llama 3.1's template writes where it is given none."""


def fix(tokenizer: Any, base: str, arguments: Mapping[str, Any]) -> None:
    """Give the tokenizer of the model ``base`` its template with ``arguments``, and the token that
    ends a reply as ``eos_token``.

    Raises:
        ConfigError: there is no template, it has no such argument, or it cannot be used: see
            :func:`sage_core.engines.prompts.check`.
    """
    try:
        own: str = tokenizer.get_chat_template()
    except ValueError as error:
        raise ConfigError(
            f"model.base = '{base}' has no chat template; use an instruct model, or put its "
            "template into chat_template.jinja in the model's folder"
        ) from error
    named = _named(own)
    known = named - _CONVERSATION - {"strftime_now", *tokenizer.special_tokens_map}
    if unknown := sorted(set(arguments) - known):
        raise ConfigError(
            f"model.chat_template_arguments has {', '.join(unknown)}, but the chat template of "
            f"model.base = '{base}' takes {', '.join(sorted(known)) or 'no arguments'}"
        )
    dated = _macro() + own if "strftime_now" in named else own
    template = _set(arguments) + dated
    tokenizer.chat_template = template
    try:
        end = ChatTemplate(tokenizer).end
    except DataError as error:
        raise ConfigError(f"model.base = '{base}' cannot be used: {error}") from error
    before = dict(tokenizer.special_tokens_map)
    if end != tokenizer.eos_token:
        if "eos_token" in named and tokenizer.eos_token:
            tokenizer.chat_template = _set({"eos_token": tokenizer.eos_token}) + template
        tokenizer.eos_token = end
    prompts.check(tokenizer, base)
    _compare(tokenizer, base, dated, {**before, **arguments})


def _compare(tokenizer: Any, base: str, own: str, arguments: Mapping[str, Any]) -> None:
    """Compare a dialogue as ours and as the model's own template renders it.

    Raises:
        ConfigError: the token ids differ.
    """
    here = prompts.Prompts(tokenizer)
    dialogue = [Message("system", "a"), Message("user", "b"), Message("assistant", "c."),
                Message("user", "d e"), Message("assistant", "{f: g} h")]  # fmt: skip
    for messages in (dialogue[1:], [] if here.template.moves_system else dialogue):
        if not messages:
            continue
        ours = here.render(messages).ids
        theirs = tokenizer.apply_chat_template(
            [asdict(message) for message in messages],
            chat_template=own,
            return_dict=False,
            **arguments,
        )
        theirs += tokenizer.encode(here.template.closing, add_special_tokens=False)
        if ours != theirs:
            raise ConfigError(
                f"the chat template of model.base = '{base}' gives other tokens with its arguments "
                f"set in it: {difference(tokenizer.decode(ours), tokenizer.decode(theirs))}; "
                "change model.chat_template_arguments"
            )


def _named(template: str) -> set[str]:
    """What the template reads and does not set."""
    from jinja2 import Environment, TemplateSyntaxError, meta
    from jinja2.defaults import DEFAULT_NAMESPACE

    environment = Environment(extensions=["jinja2.ext.loopcontrols"])  # noqa: S701  (only parsed)
    try:
        found = meta.find_undeclared_variables(environment.parse(_GENERATION.sub("", template)))
    except TemplateSyntaxError as error:
        raise ConfigError(f"the model's chat template cannot be read: {error}") from error
    return found - set(DEFAULT_NAMESPACE) - {"raise_exception"}


def _set(values: Mapping[str, Any]) -> str:
    """Lines that set variables and write nothing. JSON values as Python writes them are Jinja's."""
    return "".join(f"{{% set {name} = {value!r} %}}\n" for name, value in values.items())


def _macro() -> str:
    written = "".join(f" | replace({sign!r}, {text!r})" for sign, text in _DAY.items())
    return f"{{% macro strftime_now(format) %}}{{{{ format{written} }}}}{{% endmacro %}}\n"
