"""Whether a worker has memory left for one more request, and what it does when not.

Near its limit it takes nothing new, gives back what has not begun and finishes what runs: better than being killed with
everything in hand. It comes back when there is room again. Not at the same mark at which it stopped, or it would go in
and out with every request: at a lower one, or when it stayed below the upper one for a while, because a model alone may
fill more than the lower one, and then nothing further would ever be freed.

Not promised: a single request that wants more than is left gets the worker killed all the same.
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
"""Full is who uses more than this share of the limit, or leaves less than this reserve (what runs grows, and a health
check runs beside it), but nobody below the last share. Beyond 0.95 the Manager passes over whoever did not say so."""
LOWER = 0.10
"""There is room again this much of the limit below the mark."""
STALLED, FLOWING = 20.0, 5.0
"""Percent of ten seconds in which nobody here could go on for want of memory: the kernel takes back what is needed."""
REST = 10.0
"""Seconds below the upper mark after which there is room although the lower one is not reached."""
LOOK_EVERY, COLLECT_EVERY = 0.5, 2.0
"""Seconds between looks: while there is room, and while there is none."""


class MemoryPressure:
    """Pure: told the figures and the time, says why nothing new can be taken, or nothing."""

    def __init__(self) -> None:
        self.reason = ""
        self._last_full = 0.0

    def look(self, memory: Memory, pressure: float, now: float) -> str:
        """`pressure` in percent, `now` in seconds. In words and with the cure; empty when there is room."""
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
        """`changed` is told when there is no room any more, and when there is room again."""
        self._id = worker_id
        self._meter = meter
        self._engines = engines
        self._changed = changed
        self._strain = MemoryPressure()

    @property
    def reason(self) -> str:
        """Why nothing new can be taken; empty when it can."""
        return self._strain.reason

    async def keep(self) -> None:
        """Looks at the memory, until cancelled."""
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
