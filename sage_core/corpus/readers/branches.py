"""Conversations that are trees of messages, of which one branch is shown."""

from collections.abc import Mapping
from typing import Any

from sage_core.corpus.readers.fields import FieldError


def branch(messages: Mapping[str, dict[str, Any]], leaf: str, parent: str) -> list[dict[str, Any]]:
    """The messages from the root to ``leaf``, which they are found by.

    Args:
        messages: by their names.
        parent: the field that names the message before.

    Raises:
        FieldError: ``wrong_type``: they are a circle.
    """
    found: dict[str, dict[str, Any]] = {}
    name = leaf
    while message := messages.get(name):
        if name in found:
            raise FieldError("wrong_type", f"'{parent}' leads in a circle at {name!r}")
        found[name] = message
        name = str(message.get(parent))
    return list(found.values())[::-1]
