"""Publicly known passwords: no role starts with one at a server that other machines can reach.

They come from examples, images and tutorials, and are what a scanner tries first. On loopback they protect nothing
that is not open anyway. Passwords that are merely weak are not recognised.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import unquote, urlsplit

from config.loader import ConfigError

_WORDS = (
    "0000 1234 12345 123456 12345678 123456789 abc123 admin administrator bullpen change-me change_me changeit "
    "changeme changethis client default demo example guest insecure letmein manager mypassword nats observer pass "
    "passw0rd password password1 password123 placeholder postgres postgresql qwerty replace-me replaceme root "
    "s3cr3t s3cret secret supersecret sys system telemetry temp test toor user worker yourpassword your-password "
)
KNOWN = frozenset(_WORDS.split())
"""In small letters. Besides them: the user's own name."""


def refuse_known_password(name: str, urls: Iterable[str], user: str | None = None, password: str | None = None) -> None:
    """`name`: the variable the password is from. Those in the addresses count too. Raises `ConfigError`."""
    for url in urls:
        parts = urlsplit(url if "://" in url else f"//{url}")
        theirs = unquote(parts.password) if parts.password is not None else password
        if theirs is None or _is_loopback(parts.hostname):
            continue
        if theirs.lower() in KNOWN or theirs in (parts.username, user):
            raise ConfigError(
                f"{name}: this password is publicly known, and other machines can reach {parts.hostname}: "
                "`bullpen init` makes a .env with new ones"
            )


def _is_loopback(host: str | None) -> bool:
    if not host or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
