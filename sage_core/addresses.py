"""Addresses of servers: one spelling for one server, whoever wrote it."""

from ipaddress import ip_address

from pydantic_core import Url

OPENAI = "https://api.openai.com/v1"


def normalised(address: str) -> str:
    """``address`` with a small host, without a default port and without slashes at its end.

    Raises:
        ValueError: it is not an address of a server; the message does not repeat it.
    """
    try:
        url = Url(address.strip())
    except ValueError:
        raise ValueError(
            "it is not an address; write http:// or https://, the host, and the path that comes "
            "before /chat/completions, such as http://localhost:8000/v1"
        ) from None
    if url.scheme not in ("http", "https"):
        raise ValueError(f"'{url.scheme}:' is not a server's; an address begins with http(s)://")
    if url.query is not None or url.fragment is not None:
        raise ValueError(
            "an address must not hold '?' or '#', since paths are put behind it; a key goes into "
            "the environment variable that api_key_env names, anything else into "
            "parameters.extra_body"
        )
    return str(url).rstrip("/")


def identity(address: str) -> str:
    """One text for all normalised addresses of one server: names of this machine are one."""
    url = Url(address)
    assert url.host is not None
    host = "127.0.0.1" if _is_here(url.host) else url.host
    path = (url.path or "").strip("/")
    same = Url.build(scheme=url.scheme, host=host, port=url.port, path=path)
    return str(same).rstrip("/")


def _is_here(host: str) -> bool:
    try:
        found = ip_address(host.strip("[]"))
    except ValueError:
        return host == "localhost"
    return found.is_loopback or found.is_unspecified
