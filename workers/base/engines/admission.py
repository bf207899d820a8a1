"""Which request may start now, which waits, and which is refused because the worker is full.

`capacity` requests run at once and `queue_limit` requests wait; interactive ones come before batch, otherwise in order.
Pure bookkeeping on futures: no clock, no network.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from contracts import BullpenError, ErrorCode, Priority

Waiter = asyncio.Future[None]


class Admission:
    def __init__(self, capacity: int, queue_limit: int) -> None:
        self.capacity = capacity
        self.queue_limit = queue_limit
        self.inflight = 0
        self._waiting: dict[Priority, deque[Waiter]] = {"interactive": deque(), "batch": deque()}

    @property
    def queued(self) -> int:
        return sum(len(line) for line in self._waiting.values())

    @property
    def has_room(self) -> bool:
        """Whether a new request would start at once."""
        return self.inflight < self.capacity and not self.queued

    @asynccontextmanager
    async def place(self, priority: Priority) -> AsyncIterator[None]:
        """A place for one request; waits until one is free. Raises `BullpenError(overloaded)` at once when the queue is
        full.
        """
        if self.has_room:
            self.inflight += 1
        elif self.queued < self.queue_limit:
            await self._wait(priority)
        else:
            raise BullpenError(
                ErrorCode.OVERLOADED, f"{self.inflight} requests are running and {self.queued} wait", retry_after_ms=100
            )
        try:
            yield
        finally:
            self._leave()

    async def _wait(self, priority: Priority) -> None:
        waiter: Waiter = asyncio.get_running_loop().create_future()
        line = self._waiting[priority]
        line.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._leave()  # the place was given in the same instant: pass it on
            else:
                line.remove(waiter)
            raise

    def send_away(self, why: BullpenError) -> None:
        """Ends the wait of all waiting requests with the error `why`."""
        for line in self._waiting.values():
            while line:
                waiter = line.popleft()
                if not waiter.done():
                    waiter.set_exception(why)

    def _leave(self) -> None:
        for line in self._waiting.values():
            while line:
                waiter = line.popleft()
                if not waiter.done():
                    waiter.set_result(None)
                    return
        self.inflight -= 1
