"""Who asks. Without keys everybody on this machine may, and web pages from elsewhere may not."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.dialects import Refused

LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Caller:
    tenant: str | None = None
    """None: as the request says."""

    def check_model(self, name: str) -> None:
        """Raises `Refused` when this caller may not ask for it."""

    @contextmanager
    def asking(self, answers: int) -> Iterator[None]:
        """So many answers are under way until the end of the block. Raises `BullpenError(rate_limited)`."""
        yield

    def used(self, tokens: int) -> None:
        """An answer took so many tokens."""


class Callers:
    def __init__(self, origins: tuple[str, ...]) -> None:
        self._origins = origins

    def admit(self, headers: Mapping[str, str]) -> Caller:
        """Who sent a request with these headers. Raises `Refused` (401, 403)."""
        self._check_origin(headers.get("Origin"))
        return Caller()

    def _check_origin(self, origin: str | None) -> None:
        """A page of a web site that somebody looks at must not spend their money."""
        if origin is None or "*" in self._origins or origin in self._origins:
            return
        if urlsplit(origin).hostname not in LOOPBACK:
            why = f"pages of {origin[:200]} may not ask here: `origins` in gateway/config.yaml lists those that may"
            raise Refused(why, None, 403, "origin_refused")
