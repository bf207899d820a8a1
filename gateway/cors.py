"""Web pages of other sites: which may ask, and which may read the answer. Pure.

A page that somebody looks at must not spend their money, so a browser's request is refused unless its page is from this
machine or listed in `origins`. Only the listed ones may also read what they are answered: browsers ask for that with
headers, and before most requests with one of method OPTIONS.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from gateway.dialects import Refused

LOOPBACK = ("localhost", "127.0.0.1", "::1")
ANY = "*"
ASKS = "Access-Control-Request-Method"
ASKED_HEADERS = "Access-Control-Request-Headers"
PRIVATE = "Access-Control-Request-Private-Network"
KEPT_FOR = "600"
"""Seconds for which a browser need not ask again."""


def check_origin(origins: tuple[str, ...], headers: Mapping[str, str]) -> None:
    """Raises `Refused` (403) for a page that may not ask."""
    origin = headers.get("Origin")
    if origin is None or _is_listed(origins, origin):
        return
    try:
        host = urlsplit(origin).hostname
    except ValueError:
        host = None
    if host not in LOOPBACK:
        why = f"pages of {origin[:200]} may not ask here: `origins` in gateway/config.yaml lists those that may"
        raise Refused(why, None, 403, "origin_refused")


def readable(origins: tuple[str, ...], headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of an answer that let a listed page read it; none for others, and for what is no browser."""
    origin = headers.get("Origin")
    if origin is None or not _is_listed(origins, origin):
        return {}
    told = {"Access-Control-Allow-Origin": ANY if ANY in origins else origin, "Access-Control-Expose-Headers": "*"}
    return told if ANY in origins else {**told, "Vary": "Origin"}


def preflight(origins: tuple[str, ...], headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of the answer to a browser that asks first; none: its page may not."""
    told = readable(origins, headers)
    if not told:
        return {}
    told |= {"Access-Control-Allow-Methods": "GET, HEAD, POST", "Access-Control-Max-Age": KEPT_FOR}
    if asked := headers.get(ASKED_HEADERS):
        told["Access-Control-Allow-Headers"] = asked
    if headers.get(PRIVATE) == "true":
        told["Access-Control-Allow-Private-Network"] = "true"
    return told


def _is_listed(origins: tuple[str, ...], origin: str) -> bool:
    return ANY in origins or origin in origins
