"""Reads the pieces of an answer from a response: a stream of events, or one body."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import openai

from contracts import BullpenError, JsonObject
from workers.base.provider.server_events import EventReader, decoded

LAST = "[done]"
DRAINED_WITHIN = 0.2
"""Seconds after the last event in which the rest is read, so that the connection can be used again."""


async def pieces(response: Any) -> AsyncGenerator[JsonObject, None]:
    """The pieces of an answer. Raises `openai.APIConnectionError` when the connection breaks, `BullpenError` for a
    broken piece.
    """
    reader, chunks = EventReader(), _bytes(response)
    unread = ""
    async for chunk in chunks:
        for data in reader.feed(chunk):
            if data.strip().lower().startswith(LAST):
                await _drain(chunks)
                return
            found = decoded(data)
            unread = "" if found or data.strip() == "null" else data.strip()
            for piece in found:
                yield piece
    for data in reader.end():
        found = decoded(data)
        unread = "" if found or data.strip() == "null" else data.strip()
        for piece in found:
            yield piece
    if unread:  # the last thing that was said is no JSON: a page, or the reason why there is no more
        yield {"error": unread}


async def _bytes(response: Any) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.aiter_bytes():
            yield chunk
    except BullpenError:
        raise
    except Exception as error:  # of httpx or its successor, whichever the SDK uses
        raise openai.APIConnectionError(request=response.request) from error


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    try:
        async with asyncio.timeout(DRAINED_WITHIN):
            async for _ in chunks:
                pass
    except (TimeoutError, openai.OpenAIError, BullpenError):
        return
