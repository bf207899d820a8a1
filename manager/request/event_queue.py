"""Events of a request's attempts that were not looked at yet, in order.

When pieces of a stream come quicker than they are passed on, those that wait are joined: a busy Manager sends fewer,
larger pieces, and the queue stays small.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, replace

from contracts import Claim, Progress
from manager.request.attempt import Attempt
from manager.request.events import AttemptEvent, Streamed

MOST_WAITING = 1000
"""Events of one request that are kept; beyond it a worker that talks without end is cut short."""


@dataclass(frozen=True, slots=True)
class Heard:
    """An event of an attempt. `sender` is where the worker waits for our `go`, if it does."""

    attempt: Attempt
    event: AttemptEvent
    sender: str = ""

    def joined(self, later: "Heard") -> "Heard | None":
        """Two successive pieces of one stream as one; None when they are not successive."""
        if self.attempt is not later.attempt:
            return None
        if not isinstance(self.event, Streamed) or not isinstance(later.event, Streamed):
            return None
        both = self.event.joined(later.event)
        return None if both is None else replace(self, event=both)


class EventQueue:
    """A queue for one listener."""

    def __init__(self) -> None:
        self._waiting: deque[Heard] = deque()
        self._listener: asyncio.Future[None] | None = None

    def put(self, heard: Heard) -> None:
        if len(self._waiting) >= MOST_WAITING and isinstance(heard.event, Claim | Progress):
            return  # the next one says the same
        joined = self._waiting[-1].joined(heard) if self._waiting else None
        if joined is not None:
            self._waiting[-1] = joined
        else:
            self._waiting.append(heard)
        if self._listener is not None:
            _wake(self._listener)

    def take(self) -> Heard | None:
        """The oldest event; None when there is none."""
        return self._waiting.popleft() if self._waiting else None

    async def next(self, until: float) -> Heard | None:
        """The oldest event, or None when the loop's clock reaches `until`."""
        loop = asyncio.get_running_loop()
        while not self._waiting:
            self._listener = loop.create_future()
            timer = loop.call_at(until, _wake, self._listener)
            try:
                await self._listener
            finally:
                timer.cancel()
            if not self._waiting and loop.time() >= until:
                return None
        return self._waiting.popleft()


def _wake(listener: "asyncio.Future[None]") -> None:
    if not listener.done():
        listener.set_result(None)
