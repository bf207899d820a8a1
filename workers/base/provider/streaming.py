"""Reads a provider's stream: how long it may be silent, and how to leave it so that the provider really stops.

There is no limit on the whole answer, only on the silence before the first token and between tokens. Anything that
arrives ends a silence: a piece of the answer, a thought, and pings, comments or blank lines that an SDK does not show.
Only a token ends the time before the first one; a piece with only a role does not.

A task of its own reads the stream. Cancelling a task that waits for the network closes the connection at once, whereas
closing an SDK's generator may leave the provider writing (and billing) into a forgotten socket. The same task sends the
question, so that a provider that never answers counts as silent too.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from contracts import BullpenError, ErrorCode, SilenceOk
from workers.base.interface.backend import Delta
from workers.base.provider.connection import arrived, opened

T = TypeVar("T")
Ask = Callable[[], Awaitable[AsyncIterator[T]]]
"""Sends the question to the provider; returns the stream of the answer."""
Take = Callable[[T], Delta | None]
"""Returns the part of the answer in a piece of the stream; None: nothing to show."""

AHEAD = 1000
"""Pieces that may wait for the reader; a faster provider has to wait."""
TELL_EVERY = 1.0
"""Seconds between two reports of signs of life without a piece of the answer."""


@dataclass(frozen=True, slots=True)
class _End:
    error: Exception | None


class _Patience:
    """Measures the silence of one answer."""

    def __init__(self, silence_ok: SilenceOk) -> None:
        self._ok = silence_ok
        self._clock = asyncio.get_running_loop().time
        self._answering = False
        self.heard = self._clock()
        """When anything last arrived (loop's clock)."""

    def hear(self) -> None:
        self.heard = self._clock()

    def see(self, delta: Delta | None) -> None:
        self._answering = self._answering or (delta is not None and delta.answers)

    @property
    def left(self) -> float:
        """Seconds left of the silence that is allowed now."""
        return self.heard + self._allowed - self._clock()

    @property
    def _allowed(self) -> float:
        return (self._ok.next_token if self._answering else self._ok.first_token) / 1000

    def ended(self) -> BullpenError:
        stage = "between tokens" if self._answering else "before its first token"
        return BullpenError(ErrorCode.UPSTREAM_ERROR, f"the provider was silent for {self._allowed:g} s {stage}")


async def patiently(ask: Ask[T], take: Take[T], silence_ok: SilenceOk) -> AsyncGenerator[Delta, None]:
    """The parts of the answer as they come. Closing this generator closes the provider's connection.

    Yields a `Delta` without text and tokens once a second while only signs of life come. Raises
    `BullpenError(upstream_error)` when the provider is silent for longer than `silence_ok`, and whatever `ask`, the
    stream or `take` raises.
    """
    read: asyncio.Queue[T | _End] = asyncio.Queue(AHEAD)
    patience = _Patience(silence_ok)
    reading = asyncio.get_running_loop().create_task(_read(ask, read, patience))
    told = patience.heard
    try:
        while True:
            if (piece := await _next(read, patience)) is None:
                delta = Delta("", 0) if patience.heard > told else None
            elif isinstance(piece, _End):
                break
            else:
                patience.see(delta := take(piece))
            if delta is not None:
                told = patience.heard
                yield delta
        if piece.error is not None:
            raise piece.error
    finally:
        reading.cancel()
        await asyncio.wait({reading})


async def _read(ask: Ask[T], read: "asyncio.Queue[T | _End]", patience: _Patience) -> None:
    error: Exception | None = None
    responses: list[Any] = []
    opened.set(responses)
    arrived.set(patience.hear)
    try:
        await _pour(ask, read, patience)
    except Exception as raised:
        error = raised
    finally:
        for response in responses:  # an SDK that choked on one may have left it to the garbage collector
            await response.aclose()
    await read.put(_End(error))


async def _pour(ask: Ask[T], read: "asyncio.Queue[T | _End]", patience: _Patience) -> None:
    pieces = await ask()
    try:
        async for piece in pieces:
            patience.hear()
            await read.put(piece)
    finally:
        close = getattr(pieces, "aclose", None)
        if close is not None:
            await close()


async def _next(read: "asyncio.Queue[T]", patience: _Patience) -> T | None:
    """The next piece. None: no piece came within a second, or within the silence that is left. Raises when the silence
    is over.
    """
    if not read.empty():
        return read.get_nowait()
    if (left := patience.left) <= 0:
        raise patience.ended()
    try:
        async with asyncio.timeout(min(left, TELL_EVERY)):
            return await read.get()
    except TimeoutError:
        return None
