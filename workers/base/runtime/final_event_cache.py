"""The last word on each request of the last seconds, to be said again to a Manager that could not hear it.

A message to an inbox whose owner is reconnecting is lost without a word. So a Manager that comes back asks, and a
worker that comes back says again what it may have said into the void.
"""

from collections import OrderedDict
from dataclasses import dataclass

Key = tuple[str, int]
"""Request id and attempt."""
KEPT = 15.0
"""Seconds."""
MOST_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Word:
    inbox: str
    body: bytes
    said_at: float


class FinalEventCache:
    """Pure; `now` is the loop's clock."""

    def __init__(self) -> None:
        self._words: OrderedDict[Key, Word] = OrderedDict()
        self._bytes = 0

    def keep(self, key: Key, inbox: str, body: bytes, now: float) -> None:
        if (before := self._words.pop(key, None)) is not None:
            self._bytes -= len(before.body)
        self._words[key] = Word(inbox, body, now)
        self._bytes += len(body)
        while self._words and (self._bytes > MOST_BYTES or next(iter(self._words.values())).said_at < now - KEPT):
            _, oldest = self._words.popitem(last=False)
            self._bytes -= len(oldest.body)

    def of(self, key: Key) -> Word | None:
        return self._words.get(key)

    def since(self, then: float) -> list[Word]:
        """What was said after `then`, the oldest first."""
        return [word for word in self._words.values() if word.said_at >= then]
