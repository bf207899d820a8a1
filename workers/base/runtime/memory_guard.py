"""Whether a worker has memory left for another request, and what it does when it has not.

Near its limit the worker takes no new requests, gives back those that wait, and finishes those that run: this is better
than being killed with all of them. It takes requests again below a lower mark, so that the state does not change with
every request. It also does so after some time below the upper mark: a model alone may fill more than the lower one, and
then no more memory would ever be freed.

There is no promise for a single request that needs more memory than is left: it gets the worker killed all the same.
"""

import asyncio
import gc
from collections.abc import Awaitable, Callable

from contracts import BullpenError, ErrorCode
from workers.base.engines.engine_set import EngineSet
from workers.base.host.cgroup import Memory
from workers.base.host.resources import ResourceMeter

MIB = 1 << 20
FULL, RESERVE, SMALL = 0.90, 64 * MIB, 0.75
"""The worker is full above this share of its limit, or with less than this reserve left, but never below the last
share. The reserve is for requests that grow and for a health check. Above 0.95 the Manager passes over a worker that
did not say that it is full.
"""
LOWER = 0.10
"""Share of the limit by which use has to fall below the mark before there is room again."""
STALLED, FLOWING = 20.0, 5.0
"""Percent of the last ten seconds in which the worker waited for memory, because the kernel took back what it needed:
the worker is full from the first value on, and has room only below the second.
"""
REST = 10.0
"""Seconds below the upper mark after which there is room, although use is still above the lower one."""
LOOK_EVERY, COLLECT_EVERY = 0.5, 2.0
"""Seconds between two looks: while there is room, and while there is none."""


class MemoryPressure:
    """Decides from memory figures whether the worker may take new requests. Pure."""

    def __init__(self) -> None:
        self.reason = ""
        self._last_full = 0.0

    def look(self, memory: Memory, pressure: float, now: float) -> str:
        """Why the worker takes no new requests, and what to do about it; empty when there is room. `pressure` in
        percent, `now` in seconds.
        """
        full = min(FULL, max(SMALL, 1 - RESERVE / memory.limit))
        if memory.share >= full:
            self._short(f"uses {memory.used // MIB} of {memory.limit // MIB} MiB of memory", now)
        elif pressure >= STALLED:
            self._short(f"waits for memory {pressure:.0f} % of the time", now)
        elif pressure < FLOWING and (memory.share < full - LOWER or now - self._last_full >= REST):
            self.reason = ""
        return self.reason

    def _short(self, what: str, now: float) -> None:
        self._last_full = now
        self.reason = f"{what}, takes nothing new until there is room: give it more, or lower max_concurrency"


class MemoryGuard:
    def __init__(
        self, worker_id: str, meter: ResourceMeter, engines: EngineSet, changed: Callable[[], Awaitable[None]]
    ) -> None:
        """`changed` is called when there is no room any more, and when there is room again."""
        self._id = worker_id
        self._meter = meter
        self._engines = engines
        self._changed = changed
        self._strain = MemoryPressure()

    @property
    def reason(self) -> str:
        """Why the worker takes no new requests; empty when it does."""
        return self._strain.reason

    async def keep(self) -> None:
        """Looks at the memory at intervals, until cancelled."""
        while True:
            was_short = bool(self.reason)
            now = asyncio.get_running_loop().time()
            is_short = bool(self._strain.look(self._meter.memory(), self._meter.pressure(), now))
            if is_short != was_short:
                await self._changed()
            if is_short:
                self._engines.send_away(BullpenError(ErrorCode.NO_WORKER, f"{self._id} {self.reason}"))
                gc.collect()  # cycles stay until the next collection, to which one that takes nothing new never comes
            await asyncio.sleep(COLLECT_EVERY if is_short else LOOK_EVERY)
