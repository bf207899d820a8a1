"""Reading a provider's stream: how long it may stay silent, and how to leave it so that it really stops.

Never a cap on the whole answer, only on the silence before the first token and between tokens. The stream is
read by a task of its own, because cancelling a task that waits for the network closes the connection at once,
whereas closing an SDK's generator may leave the provider writing (and billing) into a forgotten socket. The same
task asks the question, so that a provider that takes a question and never answers is silence too.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from contracts import BullpenError, ErrorCode
from workers.base.interface.config import BackendConfig
from workers.base.provider.connection import opened

T = TypeVar("T")
Ask = Callable[[], Awaitable[AsyncIterator[T]]]
"""Asks the provider; what it returns is the stream of the answer."""

AHEAD = 1000
"""Pieces that may wait for us; a provider that sends faster than that is made to wait."""


@dataclass(frozen=True, slots=True)
class _End:
    error: Exception | None


async def patiently(ask: Ask[T], config: BackendConfig) -> AsyncGenerator[T, None]:
    """The pieces of the answer as they come; closing this generator closes the provider's connection.

    Raises `BullpenError(upstream_error)` when the provider falls silent, and whatever asking or the stream raises.
    """
    read: asyncio.Queue[T | _End] = asyncio.Queue(AHEAD)
    reading = asyncio.get_running_loop().create_task(_read(ask, read))
    seconds, stage = config.first_token_timeout, "before its first token"
    try:
        while not isinstance(piece := await _next(read, seconds, stage), _End):
            yield piece
            seconds, stage = config.next_token_timeout, "between tokens"
        if piece.error is not None:
            raise piece.error
    finally:
        reading.cancel()
        await asyncio.wait({reading})


async def _read(ask: Ask[T], read: "asyncio.Queue[T | _End]") -> None:
    error: Exception | None = None
    responses: list[Any] = []
    opened.set(responses)
    try:
        await _pour(ask, read)
    except Exception as raised:
        error = raised
    finally:
        for response in responses:  # an SDK that choked on one may have left it to the garbage collector
            await response.aclose()
    await read.put(_End(error))


async def _pour(ask: Ask[T], read: "asyncio.Queue[T | _End]") -> None:
    pieces = await ask()
    try:
        async for piece in pieces:
            await read.put(piece)
    finally:
        close = getattr(pieces, "aclose", None)
        if close is not None:
            await close()


async def _next(read: "asyncio.Queue[T]", seconds: float, stage: str) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await read.get()
    except TimeoutError:
        raise BullpenError(ErrorCode.UPSTREAM_ERROR, f"the provider was silent for {seconds:g} s {stage}") from None
