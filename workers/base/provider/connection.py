"""What every connection to a provider needs: a valid address, a valid key, and a limit on the size of answers."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from itertools import takewhile
from typing import Any
from urllib.parse import urlsplit

from config.loader import ConfigError, secret
from contracts import BullpenError, ErrorCode
from workers.base.provider.errors import first_line, garbage

CONNECT_TIMEOUT = 5.0
QUICK = 1.5
"""Seconds within which a backend says whether it can run here."""
KEEPS_METHOD = (307, 308)
"""Redirects after which a client sends the same question again; after others it leaves the question out."""
MAX_LINE = 8 << 20
MAX_BODY = 128 << 20
"""Bytes of one answer on the wire. `SizeGuard` limits its text; this limits everything around it."""

UNUSABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""Errors that client libraries raise when an answer has an unexpected form."""


listening: ContextVar[Callable[[Mapping[str, str]], None]] = ContextVar("listening")
"""Called with the headers of a provider's answers. Set at the start of a request."""
opened: ContextVar[list[Any]] = ContextVar("opened")
"""The responses that a task opened, so that it can close them, whatever an SDK does with them."""
arrived: ContextVar[Callable[[], None]] = ContextVar("arrived")
"""Called for the headers of an answer and for each piece of it, even for those that an SDK does not show: comments,
pings, blank lines. Set at the start of a request.
"""


def headers_seen() -> Mapping[str, str]:
    """The headers of the last response that this task opened, for an SDK whose errors do not have them."""
    responses = opened.get([])
    return dict(responses[-1].headers) if responses else {}


def address(variable: str, configured: str | None) -> str | None:
    """The server's address from the config, or else from the environment. Raises `ConfigError`."""
    url = configured or secret(variable)
    if url is None:
        return None
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{_shown(url)!r} is not the address of a server: it should look like https://host:port/path")
    return url


def _shown(url: str) -> str:
    """The address without user and password."""
    return url.rpartition("@")[2]


def is_plain(url: str | None) -> bool:
    """Whether a server is reached without TLS, so that every call should get a connection of its own.

    A new connection costs almost nothing there. A kept one sometimes loses an answer: llama.cpp and servers on uvicorn
    close it just as the next question is on its way, and nothing repeats that question.
    """
    return url is not None and urlsplit(url).scheme == "http"


def place(url: str) -> str:
    """An address for people: without path, user or password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def api_key(variable: str) -> str | None:
    """The key from the environment, without pasted blanks. Raises `ConfigError`."""
    key = (secret(variable) or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{variable} has characters that no key has: paste it again")
    return key or None


class Redirected(BullpenError):
    """The provider's address redirects elsewhere; no prompt and no key was sent on."""

    def __init__(self, asked: str, location: str) -> None:
        self.asked, self.location = asked.partition("?")[0], location.partition("?")[0]
        where = f"{place(asked)} sends its callers on to {first_line(_shown(self.location))}"
        told = f"{where}, and neither prompt nor key is sent on: correct the address"
        super().__init__(ErrorCode.UPSTREAM_ERROR, told, fault="worker")

    def right_address(self, base: str) -> str:
        """The address that should stand in the config instead of `base`."""
        asked, location, base = (url.rstrip("/") for url in (self.asked, self.location, base))
        same = sum(
            1 for _ in takewhile(lambda ends: ends[0] == ends[1], zip(asked[::-1], location[::-1], strict=False))
        )
        before, after = asked[: len(asked) - same], location[: len(location) - same]
        return after + base.removeprefix(before) if base.startswith(before) else location


def redirected(response: Any) -> Redirected | None:
    """The error for a redirect that must not be followed: to another origin, or without the question. None: no such
    redirect.
    """
    if not response.has_redirect_location:
        return None
    asked, told = response.request.url, response.headers["location"]
    try:
        location = asked.join(told)
    except Exception:  # httpx has its own kinds of error, which differ between its versions
        return Redirected(str(asked), "an address that cannot be read")
    same_place = (asked.scheme, asked.host, asked.port) == (location.scheme, location.host, location.port)
    keeps_question = response.status_code in KEEPS_METHOD or response.request.method in ("GET", "HEAD")
    return None if same_place and keeps_question else Redirected(str(asked), str(location))


def without(key: str | None, text: str) -> str:
    """The text without the key: some providers repeat the key in their errors."""
    return text.replace(key, "***") if key else text


async def bounded(response: Any) -> None:
    """For an HTTP client's `event_hooks`: limits an answer whose lines or body never end, so that it cannot fill the
    memory.

    A redirect to another place is an error (`Redirected`) before anything is sent there: prompts and keys stay here.

    Calls `listening` with the headers, and `arrived` for each piece unless the answer is a refusal.

    Counts bytes after decompression. Works for httpx and for its successor httpx2, to which the SDKs will change.
    """
    with suppress(LookupError):
        opened.get().append(response)
    if (error := redirected(response)) is not None:
        raise error
    with suppress(LookupError):
        listening.get()(response.headers)
    read, hear = response.aiter_bytes, arrived.get(_ignore) if response.is_success else _ignore
    hear()

    async def limited(*how: Any) -> Any:
        line = body = 0
        async for piece in read(*how):
            hear()
            body += len(piece)
            line = line + len(piece) if b"\n" not in piece else len(piece) - piece.rfind(b"\n")
            if line > MAX_LINE or body > MAX_BODY:
                raise garbage("an answer without end")
            yield piece

    response.aiter_bytes = limited


def _ignore() -> None:
    """Does nothing: no request waits for this answer."""
