"""The address of a NATS server, taken apart: nats-py reads a login as it stands, `%40` for `@` and all."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

SCHEMES = ("nats", "tls", "ws", "wss")
NAME = "NATS_URL"
CURE = "write nats://host:4222, several with commas, special characters of a password as %XX"

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_PLACE = re.compile(r"(\[[0-9a-f:.%]+\]|[^\s:/?#@\[\]]+)(?::(\d{1,5})?)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Login:
    """The login for a server: user and password, or a token."""

    user: str | None = None
    password: str | None = None
    token: str | None = None

    def __repr__(self) -> str:
        return "Login(***)"


@dataclass(frozen=True, slots=True)
class ServerAddress:
    url: str
    """The address without its login."""
    login: Login | None

    @property
    def place(self) -> str:
        """`host:port`, as nats-py names a server."""
        return self.url.partition("://")[2].partition("/")[0]


def split(text: str) -> tuple[str, ...]:
    """The addresses in a comma-separated list."""
    return tuple(part.strip() for part in text.strip(" \t\r\n'\"").split(",") if part.strip())


def read_all(urls: Iterable[str]) -> tuple[ServerAddress, ...]:
    """Reads every address. Raises `ValueError`, whose message shows no part of a login, even if a comma in a password
    split it.
    """
    listed = list(urls)
    try:
        return tuple(map(read, listed))
    except ValueError:
        if any("@" in url for url in listed):
            raise ValueError(f"{NAME}: one of {len(listed)} is not a server's address: {CURE}") from None
        raise


def read(url: str) -> ServerAddress:
    """Reads an address. Raises `ValueError`, whose message shows the address."""
    scheme = _SCHEME.match(url)
    kind = scheme[1].lower() if scheme else "nats"
    login, at, where = (url[scheme.end() :] if scheme else url).rpartition("@")
    web = kind in ("ws", "wss")  # which may have a path
    place = _PLACE.fullmatch(where.partition("/")[0] if web else where.rstrip("/"))
    port = int(place[2] or "4222") if place else 0
    if kind not in SCHEMES or place is None or not 0 < port < 1 << 16 or any(mark in login for mark in " \t\r\n"):
        raise ValueError(f"{NAME}: {url!r} is not a server's address: {CURE}")
    written = where.rstrip("/") if web else f"{place[1]}:{port}"
    return ServerAddress(f"{kind}://{written}", _login(login) if at else None)


def _login(written: str) -> Login:
    user, colon, password = written.partition(":")
    return Login(unquote(user), unquote(password)) if colon else Login(token=unquote(user))
