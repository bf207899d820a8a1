"""Web pages of other sites: which may send requests, and which may read the answers. Pure.

A page in a browser must not spend its visitor's money. So a browser's request is refused unless its page comes from
this machine or from a site in `origins`. Only listed sites may also read the answers: browsers ask for that with
headers, and before most requests with the method OPTIONS.
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
    """Raises `Refused` (403) when the request comes from another site's page."""
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
    """Headers that let a listed site's page read the answer; empty for any other request."""
    origin = headers.get("Origin")
    if origin is None or not _is_listed(origins, origin):
        return {}
    told = {"Access-Control-Allow-Origin": ANY if ANY in origins else origin, "Access-Control-Expose-Headers": "*"}
    return told if ANY in origins else {**told, "Vary": "Origin"}


def preflight(origins: tuple[str, ...], headers: Mapping[str, str]) -> dict[str, str]:
    """Headers of the answer to a browser's OPTIONS request; empty: the page may not send the request."""
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
