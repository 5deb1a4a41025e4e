"""Who is the user and who the assistant, by the names that records use."""

from collections.abc import Mapping

from sage_core.corpus.readers.fields import FieldError
from sage_core.corpus.records import SYSTEM as SYSTEM  # the third of the roles

USER, ASSISTANT = "user", "assistant"

KNOWN: Mapping[str, str] = {
    **dict.fromkeys(("user", "human", "prompter", "customer", "client", "seeker", "usr"), USER),
    **dict.fromkeys(
        ("assistant", "gpt", "chatgpt", "bing", "bard", "claude", "model", "bot", "chatbot", "ai",
         "agent", "supporter"),
        ASSISTANT,
    ),
    **dict.fromkeys(
        ("system", "developer", "tool", "tool_call", "tool_response", "tools", "function",
         "function_call", "function_response", "observation", "ipython", "environment"),
        SYSTEM,
    ),
}  # fmt: skip


def known_role(name: str, roles: Mapping[str, str]) -> str | None:
    """The role of a name, as ``roles`` have it or, in any letter case, as it is usual; None:
    neither."""
    return roles.get(name) or KNOWN.get(name.strip().casefold())


def role_of(name: str, roles: Mapping[str, str], field: str) -> str:
    """The role of a name in ``field``.

    Raises:
        FieldError: ``unknown_role``.
    """
    role = known_role(name, roles)
    if role is None:
        names = [each for each in KNOWN if KNOWN[each] != SYSTEM]
        raise FieldError(
            "unknown_role",
            f"'{field}' is {name!r:.60}, none of {', '.join([*roles, *names])}; set corpus.roles="
            f"{{{name:.60}: user}}, or assistant, or system to leave it out",
        )
    return role
