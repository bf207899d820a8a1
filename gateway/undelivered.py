"""Whole answers that a client's connection may have lost, kept for a minute: an SDK that asks again gets its answer.

OpenAI's and Anthropic's SDKs say with each request how often they have tried it, and try by themselves when their
connection breaks. An answer that was written to a connection which then ended, without another request on it, may not
have arrived; the same question of the same caller, marked as a repeat, gets that answer instead of running twice. The
answers are in the memory of one gateway process, so a repeat that comes to another process runs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256

TRIES = "x-stainless-retry-count"
"""The header in which an SDK says how often it has tried before. A client without it does not try again by itself."""
KEPT = 60.0
"""Seconds for which an answer is kept. SDKs wait for eight at most."""
LARGEST = 1 << 20
"""Bytes of a question, and of an answer: a larger one is not kept."""
MOST_BYTES = 32 << 20
"""Bytes of all kept answers together; the oldest ones make room."""


@dataclass(eq=False, slots=True)
class Written:
    """An answer that was written to a connection."""

    question: bytes
    body: bytes
    headers: Mapping[str, str]
    _forget: Callable[["Written"], None]
    is_lost: bool = False

    def forget(self) -> None:
        """The answer has arrived, because the client has sent another request on its connection; or it is too old."""
        self._forget(self)

    def lost(self) -> None:
        """The connection has ended, without another request on it."""
        self.is_lost = True


class Undelivered:
    def __init__(self) -> None:
        self._kept: dict[Written, None] = {}
        """The oldest first."""
        self._size = 0

    def keep(self, question: bytes, body: bytes, headers: Mapping[str, str]) -> Written | None:
        """Keeps an answer that is about to be written; None: it is too large. Call `forget` after `KEPT` seconds."""
        if len(body) > LARGEST:
            return None
        written = Written(question, body, headers, self._forget)
        self._kept[written] = None
        self._size += len(body)
        while self._size > MOST_BYTES:
            self._forget(next(iter(self._kept)))
        return written

    def take(self, question: bytes) -> Written | None:
        """The oldest lost answer to that question; no other repeat gets it."""
        lost = next((one for one in self._kept if one.is_lost and one.question == question), None)
        if lost is not None:
            self._forget(lost)
        return lost

    def _forget(self, written: Written) -> None:
        if written in self._kept:
            del self._kept[written]
            self._size -= len(written.body)


def name_of(headers: Mapping[str, str], key_id: str, path: str, body: bytes) -> bytes | None:
    """The name of a question: the same for the same caller, path and body. None: too large, or not to be repeated."""
    if TRIES not in headers or len(body) > LARGEST:
        return None
    return sha256(b"\0".join((key_id.encode(), path.encode(), body))).digest()


def is_repeat(headers: Mapping[str, str]) -> bool:
    """Whether the client has tried the question before."""
    return headers.get(TRIES, "0") != "0"
