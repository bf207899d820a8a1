"""Notices that this process stood still: it was frozen, or its event loop was busy for seconds.

Meanwhile the server may have closed the connection without this process knowing, and what is written to it then is
lost. So after a standstill, the connection is proved before anything is published.
"""

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

TICK = 0.5
STOOD_STILL = 2.0
"""Seconds without a tick that count as a standstill: fewer than a server waits for a client that does not answer."""


class Standstill:
    """Watches for standstills. `prove`: returns when the connection is proved to be alive, or is being replaced."""

    def __init__(self, prove: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._prove = prove
        self._ticked = monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._proving: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Ticks every `TICK` seconds until it is closed."""
        self._look()
        self._timer = asyncio.get_running_loop().call_later(TICK, self.watch)

    @property
    def is_proved(self) -> bool:
        """Whether no standstill has happened since the connection was last proved."""
        if monotonic() - self._ticked > STOOD_STILL:
            self._look()
        return self._proving is None

    async def until_proved(self) -> None:
        """Returns when published messages reach a server again, or wait for one."""
        if self._proving is not None:
            await asyncio.wait([self._proving])

    def _look(self) -> None:
        before, self._ticked = self._ticked, monotonic()
        if self._ticked - before > STOOD_STILL and self._proving is None:
            self._proving = asyncio.get_running_loop().create_task(self._prove(), name="prove")
            self._proving.add_done_callback(self._proved)

    def _proved(self, proving: asyncio.Task[None]) -> None:
        self._proving = None
        if not proving.cancelled():
            proving.exception()  # it is made anew by whoever notices

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._proving is not None:
            self._proving.cancel()
