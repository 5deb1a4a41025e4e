"""Who may see the page of ``sage chat --web`` where others can reach it: whoever knows the key."""

import ipaddress
from hashlib import sha256
from secrets import compare_digest
from typing import TYPE_CHECKING

from sage_core.errors import ConfigError
from sage_core.keys import read_key

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

VARIABLE = "SAGE_CHAT_KEY"
COOKIE = "sage_chat"
_SHORTEST = 16  # characters


def key_for(host: str) -> str:
    """The key that a page at ``host`` asks for; "" = none is needed, as on loopback.

    Raises:
        ConfigError: others can reach ``host``, and ``SAGE_CHAT_KEY`` holds no key of 16 characters
            or more.
    """
    if _is_loopback(host):
        return ""
    key = read_key(VARIABLE)
    if len(key) < _SHORTEST:
        raise ConfigError(
            f"others can reach --host {host}: set {VARIABLE} to a key of {_SHORTEST} characters or "
            "more, which the page then asks for, or leave --host out"
        )
    return key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class KeyRequired:
    """ASGI middleware: pages and web sockets are served to those who have opened ``/?key=KEY``
    once, which leaves a cookie."""

    def __init__(self, app: "ASGIApp", key: str) -> None:
        self.app, self._key = app, key
        self._cookie = sha256(key.encode()).hexdigest()

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        from starlette.requests import HTTPConnection
        from starlette.responses import PlainTextResponse, RedirectResponse
        from starlette.websockets import WebSocketClose

        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        asked = HTTPConnection(scope)
        if _equal(asked.cookies.get(COOKIE, ""), self._cookie):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await WebSocketClose(1008)(scope, receive, send)
        elif _equal(asked.query_params.get("key", ""), self._key):
            entered = RedirectResponse("/", status_code=303)
            entered.set_cookie(COOKIE, self._cookie, httponly=True, samesite="lax")
            await entered(scope, receive, send)
        else:
            refused = PlainTextResponse("open /?key=KEY with the page's key\n", status_code=401)
            await refused(scope, receive, send)


def _equal(given: str, expected: str) -> bool:
    return compare_digest(given.encode(), expected.encode())
