"""Requests that fit somewhere but find every place taken: they wait here, in order.

Interactive before batch, the oldest first, and never more than so many: when the room is full, batch work has to go.
Pure bookkeeping on futures.
"""

import asyncio
from collections import deque

from contracts import BullpenError, ErrorCode, Priority


class WaitingRoom:
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines: dict[Priority, deque[asyncio.Future[None]]] = {"interactive": deque(), "batch": deque()}

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    async def wait(self, priority: Priority, *, again: bool, seconds: float) -> None:
        """Waits to be called, at most `seconds`. Who was called and found nothing comes `again`, to the front.

        Raises `BullpenError(overloaded)` at once when the room is full.
        """
        if len(self) >= self._limit and not again and not (priority == "interactive" and self._send_away()):
            raise self._full()
        line = self._lines[priority]
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if again:
            line.appendleft(turn)
        else:
            line.append(turn)
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await turn
        except TimeoutError:
            return
        finally:
            if not turn.done() or turn.cancelled():
                self._forget(line, turn)

    def _send_away(self) -> bool:
        """Makes room for an interactive request at the cost of the batch work that came last, if there is any."""
        batch = self._lines["batch"]
        while batch:
            turn = batch.pop()
            if not turn.done():
                turn.set_exception(self._full())
                return True
        return False

    def _full(self) -> BullpenError:
        return BullpenError(
            ErrorCode.OVERLOADED, f"every worker is full and {len(self)} requests wait already", retry_after_ms=1000
        )

    def call(self, count: int) -> None:
        """So many places have become free: call as many who wait."""
        for line in self._lines.values():
            while line and count > 0:
                turn = line.popleft()
                if not turn.done():
                    turn.set_result(None)
                    count -= 1

    def _forget(self, line: deque[asyncio.Future[None]], turn: asyncio.Future[None]) -> None:
        if turn in line:
            line.remove(turn)
