"""What every connection to a provider needs: an address and a key that can be used, and an end to what comes back."""

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
"""Redirects after which a client asks the same question again; after others it asks without the question."""
MAX_LINE = 8 << 20
MAX_BODY = 128 << 20
"""Bytes of one answer as it travels. Its text is bounded by `SizeGuard`; this is about all that surrounds it."""

UNUSABLE = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What client libraries raise when an answer has not the form of one."""


listening: ContextVar[Callable[[Mapping[str, str]], None]] = ContextVar("listening")
"""Whoever wants to know what the headers of a provider's answers say; set where a request begins."""
opened: ContextVar[list[Any]] = ContextVar("opened")
"""The responses that a task opened, so that it can close them whatever an SDK does with them."""
arrived: ContextVar[Callable[[], None]] = ContextVar("arrived")
"""Called for the headers of an answer and for each piece of it, also for those that an SDK shows nothing of: comments,
pings, blank lines. Set where a request begins."""


def headers_seen() -> Mapping[str, str]:
    """Those of the last response that this task opened, for an SDK whose errors do not show them."""
    responses = opened.get([])
    return dict(responses[-1].headers) if responses else {}


def address(variable: str, configured: str | None) -> str | None:
    """Where the server is: as the config says, else as the environment does. Raises `ConfigError`."""
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
    """Without the user and password that may stand in it."""
    return url.rpartition("@")[2]


def is_plain(url: str | None) -> bool:
    """Whether a server is spoken to without TLS, so that every call should get a connection of its own.

    That costs next to nothing. Kept connections cost an answer now and then: llama.cpp and servers on uvicorn
    close them just when the next question is on its way, and nothing asks again.
    """
    return url is not None and urlsplit(url).scheme == "http"


def place(url: str) -> str:
    """An address as it is shown to people: without path, user or password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def api_key(variable: str) -> str | None:
    """The key without the blanks that came along when it was pasted. Raises `ConfigError`."""
    key = (secret(variable) or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{variable} has characters that no key has: paste it again")
    return key or None


class Redirected(BullpenError):
    """The provider's address leads elsewhere; no prompt and no key was sent on."""

    def __init__(self, asked: str, location: str) -> None:
        self.asked, self.location = asked.partition("?")[0], location.partition("?")[0]
        where = f"{place(asked)} sends its callers on to {first_line(_shown(self.location))}"
        told = f"{where}, and neither prompt nor key is sent on: correct the address"
        super().__init__(ErrorCode.UPSTREAM_ERROR, told, fault="worker")

    def right_address(self, base: str) -> str:
        """What `base`, the address in the config, should be."""
        asked, location, base = (url.rstrip("/") for url in (self.asked, self.location, base))
        same = sum(
            1 for _ in takewhile(lambda ends: ends[0] == ends[1], zip(asked[::-1], location[::-1], strict=False))
        )
        before, after = asked[: len(asked) - same], location[: len(location) - same]
        return after + base.removeprefix(before) if base.startswith(before) else location


def redirected(response: Any) -> Redirected | None:
    """The error for a redirect that may not be followed: to another origin, or with the question left behind."""
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
    """Some providers repeat the key in what they say about it."""
    return text.replace(key, "***") if key else text


async def bounded(response: Any) -> None:
    """For an HTTP client's `event_hooks`: an answer that never ends a line, or never ends, does not fill the memory.

    A redirect to another place is an error (`Redirected`) before anything goes there: prompts and keys stay at home.

    Its headers are shown to whoever is `listening`; that something `arrived` is told, unless it is a refusal.

    It counts what arrives after decompression. Works for httpx and for its successor httpx2, which the SDKs
    are about to change to.
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
    """No request waits for this answer."""
