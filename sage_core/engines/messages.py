"""Conversations as servers take them."""

from collections.abc import Sequence

_AS_JSON = (
    "\n\nAnswer with one JSON object and nothing else, no code fence around it. It has to match "
    "this JSON schema:\n{schema}"
)
Messages = list[dict[str, str]]


def without_system(messages: Sequence[dict[str, str]]) -> Messages:
    """What the system says opens the user's next message, or is a message of the user's."""
    found: Messages = []
    held = ""
    for message in messages:
        if message["role"] == "system":
            held += message["content"] + "\n\n"
            continue
        if held and message["role"] == "user":
            message = {"role": "user", "content": held + message["content"]}
        elif held:
            found.append({"role": "user", "content": held.rstrip()})
        held = ""
        found.append(message)
    return [*found, {"role": "user", "content": held.rstrip()}] if held else found


def asking_for_json(messages: Sequence[dict[str, str]], schema: str) -> Messages:
    """The first message also says what the answer has to look like."""
    first, *others = messages
    return [{**first, "content": first["content"] + _AS_JSON.format(schema=schema)}, *others]
