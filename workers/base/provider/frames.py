"""A provider's stream as its SDK wants it: the same messages, each in the frame that the protocol documents.

SDKs read frames as strictly as their own provider writes them. Others put a mark before the first byte, leave out the
name of an event or the blank behind its colon, or send one whole body. `server_events` reads all of those.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from contracts import JsonObject
from workers.base.provider.server_events import EventReader, decoded

Mend = Callable[[JsonObject], Iterable[JsonObject]]
"""The messages that a message stands for, usually itself. May raise what the message means."""
LAST = "[done]"


def events(told: JsonObject) -> str:
    return f"data: {json.dumps(told)}\n\n"


def named_events(told: JsonObject) -> str:
    return f"event: {told['type']}\n{events(told)}"


def lines(told: JsonObject) -> str:
    return f"{json.dumps(told)}\n"


def reframe(response: Any, frame: Callable[[JsonObject], str], mend: Mend) -> None:
    """Has the response (of httpx or its successor) give its messages in `frame`s, once mended.

    Raises while it is read: `BullpenError(upstream_error)` for what is no message, and whatever `mend` raises. What is
    no JSON at the end of the body, or is all of it, is told to `mend` as `{"error": text}`.
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
