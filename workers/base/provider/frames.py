"""Rewrites a provider's stream for its SDK: the same messages, each framed as the protocol documents it.

SDKs accept only the frames that their own provider sends. Other servers put a byte order mark first, leave out an
event's name or the blank after its colon, or send one whole body. `server_events` reads all of these.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from contracts import JsonObject
from workers.base.provider.server_events import EventReader, decoded

Mend = Callable[[JsonObject], Iterable[JsonObject]]
"""The messages that replace a message, usually itself. May raise the error that the message stands for."""
LAST = "[done]"


def events(told: JsonObject) -> str:
    return f"data: {json.dumps(told)}\n\n"


def named_events(told: JsonObject) -> str:
    return f"event: {told['type']}\n{events(told)}"


def lines(told: JsonObject) -> str:
    return f"{json.dumps(told)}\n"


def reframe(response: Any, frame: Callable[[JsonObject], str], mend: Mend) -> None:
    """Makes the response (of httpx or its successor) return its messages in `frame`s, after `mend`.

    Reading it raises `BullpenError(upstream_error)` for a broken message, and whatever `mend` raises. Text that is not
    JSON, as the whole body or at its end, goes to `mend` as `{"error": text}`.
    """
    read = response.aiter_bytes

    async def framed(*how: Any) -> AsyncIterator[bytes]:
        reader, reading = EventReader(), _Reading(mend)
        async for chunk in read(*how):
            for data in reader.feed(chunk):
                for told in reading.take(data):
                    yield frame(told).encode()
        for data in reader.end():
            for told in reading.take(data):
                yield frame(told).encode()
        for told in reading.end():
            yield frame(told).encode()

    response.aiter_bytes = framed


class _Reading:
    def __init__(self, mend: Mend) -> None:
        self._mend = mend
        self._unread = ""

    def take(self, data: str) -> Iterator[JsonObject]:
        text = data.strip()
        if text.lower().startswith(LAST):
            self._unread = ""
            return
        found = decoded(data)
        self._unread = "" if found or text == "null" else text
        for told in found:
            yield from self._mend(told)

    def end(self) -> Iterator[JsonObject]:
        if self._unread:
            yield from self._mend({"error": self._unread})
