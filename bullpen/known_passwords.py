"""Publicly known passwords: no role starts with one of them at a server that other machines can reach.

They come from examples, images and tutorials, and scanners try them first. On loopback they are allowed: there they
protect nothing that is not open anyway. Passwords that are merely weak are not recognised.
"""

import re
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import unquote

from config.loader import ConfigError

_WORDS = (
    "0000 1234 12345 123456 12345678 123456789 abc123 admin administrator bullpen change-me change_me changeit "
    "changeme changethis client default demo example guest insecure letmein manager mypassword nats observer pass "
    "passw0rd password password1 password123 placeholder postgres postgresql qwerty replace-me replaceme root "
    "s3cr3t s3cret secret supersecret sys system telemetry temp test toor user worker yourpassword your-password "
)
KNOWN = frozenset(_WORDS.split())
"""The passwords in small letters. The user's own name counts too."""


def refuse_known_password(name: str, urls: Iterable[str], user: str | None = None, password: str | None = None) -> None:
    """Refuses a known password. `name`: the password's variable. Passwords in the addresses are checked too. Raises
    `ConfigError`.
    """
    for url in urls:
        login, _, hosts = re.split("[/?#]", url.partition("://")[2] or url)[0].rpartition("@")
        username, colon, written = login.partition(":")
        theirs = unquote(written) if colon else password
        away = [host for host in map(_host, hosts.split(",")) if not _is_here(host)]
        if theirs is None or not away:
            continue
        if theirs.lower() in KNOWN or theirs in (unquote(username), user):
            raise ConfigError(
                f"{name}: this password is publicly known, and other machines can reach {away[0]}: "
                "`bullpen init` makes a .env with new ones"
            )


def _host(place: str) -> str:
    """The host without port and brackets."""
    return place[1:].partition("]")[0] if place.startswith("[") else unquote(place.partition(":")[0])


def _is_here(host: str) -> bool:
    """Whether the address is this machine's: loopback, or a Unix socket."""
    if not host or host == "localhost" or host.startswith("/"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
