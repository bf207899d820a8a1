"""Whole answers that a client's connection may have lost, kept for a minute: an SDK that asks again gets its answer.

OpenAI's and Anthropic's SDKs say with each request how often they have tried it, and try by themselves when their
connection breaks. What was written to a connection that then ended, without another request on it, may not have
arrived; the same question of the same caller, marked as a repeat, gets that answer once more instead of running twice.
Kept in the memory of one gateway process, so a repeat that comes to another one runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256

TRIES = "x-stainless-retry-count"
"""The header in which SDKs say how often they have tried before. Who does not send it does not try again by itself."""
KEPT = 60.0
"""Seconds. SDKs wait for eight at most."""
LARGEST = 1 << 20
"""Bytes of a question, and of an answer: what is larger is not kept."""
MOST_BYTES = 32 << 20
"""Of all that is kept."""


@dataclass(eq=False, slots=True)
class Written:
    """An answer that was written to a connection."""

    question: bytes
    body: bytes
    headers: Mapping[str, str]
    at: float
    forget: Callable[["Written"], None]
    is_lost: bool = False

    def arrived(self) -> None:
        """The client has asked something else on its connection since."""
        self.forget(self)

    def lost(self) -> None:
        """The connection ended, and nothing else was asked on it."""
        self.is_lost = True


class Undelivered:
    def __init__(self) -> None:
        self._kept: dict[Written, None] = {}
        """The oldest first."""
        self._size = 0

    def keep(self, question: bytes, body: bytes, headers: Mapping[str, str], now: float) -> Written | None:
        """Of an answer that is about to be written; None: it is too large. `now`: in seconds, of any clock."""
        if len(body) > LARGEST:
            return None
        written = Written(question, body, headers, now, self._forget)
        self._kept[written] = None
        self._size += len(body)
        while self._size > MOST_BYTES or next(iter(self._kept)).at < now - KEPT:
            self._forget(next(iter(self._kept)))
        return written

    def take(self, question: bytes, now: float) -> Written | None:
        """A lost answer to that question, the oldest, which is then nobody else's."""
        for written in self._kept:
            if written.is_lost and written.question == question and written.at >= now - KEPT:
                self._forget(written)
                return written
        return None

    def _forget(self, written: Written) -> None:
        if written in self._kept:
            del self._kept[written]
            self._size -= len(written.body)


def name_of(headers: Mapping[str, str], key_id: str, path: str, body: bytes) -> bytes | None:
    """Of a question: the same for the same caller, path and body. None: it will not be repeated, or is too large."""
    if TRIES not in headers or len(body) > LARGEST:
        return None
    return sha256(b"\0".join((key_id.encode(), path.encode(), body))).digest()


def is_repeat(headers: Mapping[str, str]) -> bool:
    """Whether a client has tried before."""
    return headers.get(TRIES, "0") != "0"
