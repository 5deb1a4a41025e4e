"""Keys of servers and hubs: read and checked in one place, and kept out of messages.

What an error says is stored: in Prefect's database, result files and logs. httpx repeats a header
that it cannot send, and some servers repeat the key that they refuse.
"""

import html
import os
import re
from functools import lru_cache
from typing import Any

from sage_core.errors import ConfigError

REDACTED = "[key]"


def read_key(variable: str) -> str:
    """The key in an environment variable, without white space around it; "" = none is set.

    Raises:
        ConfigError: as :func:`check_key` does.
    """
    return check_key(os.environ.get(variable, ""), f"the environment variable {variable}")


def check_key(key: str, where: str) -> str:
    """``key`` without white space around it; ``where`` says in an error where it is from.

    Raises:
        ConfigError: it holds anything but printable ASCII without blanks, which is what an HTTP
            header carries; the message does not repeat it.
    """
    key = key.strip()
    if not all("!" <= character <= "~" for character in key):
        raise ConfigError(
            f"{where} holds a key with a blank, a line break or a character that is not printable "
            "ASCII; set it to the key alone"
        )
    return key


def redact(text: str, *keys: str) -> str:
    """``text`` from outside (an exception, a server's answer) with ``[key]`` for each of ``keys``,
    as it is or escaped for Python, JSON, a URL or HTML; empty ones are passed over."""
    pattern = _pattern(keys)
    return pattern.sub(REDACTED, text) if pattern else text


def redacted(value: Any, *keys: str) -> Any:
    """JSON values with every text in them as :func:`redact` gives it."""
    if isinstance(value, str):
        return redact(value, *keys)
    if isinstance(value, list):
        return [redacted(item, *keys) for item in value]
    if isinstance(value, dict):
        return {redact(name, *keys): redacted(item, *keys) for name, item in value.items()}
    return value


def holds_credentials(address: str) -> bool:
    """Whether a URL may hold a user name or password (``//user:password@host``). Any ``@`` counts:
    unescaped characters of a password can make it look like a path."""
    return "@" in address


@lru_cache(maxsize=32)
def _pattern(keys: tuple[str, ...]) -> re.Pattern[str] | None:
    longest_first = sorted(filter(None, keys), key=len, reverse=True)  # one may be in another
    written = "|".join("".join(map(_written, key)) for key in longest_first)
    return re.compile(written) if written else None


def _written(character: str) -> str:
    """A pattern of the ways to write one character."""
    plain = re.escape(character)
    if character.isalnum():
        return plain
    entity = re.escape(html.escape(character))
    code = rf"\\+u{ord(character):04x}|\\+x{ord(character):02x}|%{ord(character):02x}"
    return rf"(?:(?i:{code})|\\*(?:{entity}|{plain}))"
