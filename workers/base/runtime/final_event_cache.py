"""The final message of each recent request, to be sent again to a Manager that could not hear it.

A message to an inbox whose owner is reconnecting is lost without an error. So a Manager that reconnects asks for the
state of its attempts, and a worker that reconnects sends its latest final messages again.
"""

from collections import OrderedDict
from dataclasses import dataclass

Key = tuple[str, int]
"""Request id and number of the attempt."""
KEPT = 15.0
"""Seconds for which a final message is kept."""
MOST_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Word:
    inbox: str
    body: bytes
    said_at: float


class FinalEventCache:
    """The final messages of recent requests. Pure; `now` is the loop's clock."""

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
        """The final messages sent since `then`, the oldest first."""
        return [word for word in self._words.values() if word.said_at >= then]
