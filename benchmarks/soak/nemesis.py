"""Does to the mesh what the plan says, and waits until the mesh has got over it."""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from benchmarks.soak.history import Inflicted
from benchmarks.soak.plan import Fault
from benchmarks.soak.watch import Watch
from bullpen.supervision.mesh import Mesh

HEALS_WITHIN = 30.0
"""Seconds in which everybody must be well again."""
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "freeze": signal.SIGSTOP}


async def inflict(
    faults: Iterator[Fault], mesh: Mesh, watch: Watch, until: float, note: Callable[[Inflicted], None]
) -> None:
    """One fault after the other; none begins after `until` (the loop's clock)."""
    now = asyncio.get_running_loop().time
    for fault in faults:
        if now() + fault.after >= until:
            return
        await asyncio.sleep(fault.after)
        note(await _inflict(fault, mesh, watch))


async def _inflict(fault: Fault, mesh: Mesh, watch: Watch) -> Inflicted:
    pid, begin = mesh.pid(fault.victim), time.monotonic_ns()
    _send(pid, SIGNALS[fault.deed])
    try:
        async with asyncio.timeout(fault.lasts + HEALS_WITHIN):
            if fault.deed == "freeze":
                await _thaw(pid, fault.lasts)
            else:
                await _replaced(mesh, fault.victim, pid)
            watch.listen_anew()
            await _well(watch)
    except TimeoutError:
        return Inflicted(fault.role, fault.deed, fault.victim, begin, healed=None)
    return Inflicted(fault.role, fault.deed, fault.victim, begin, healed=time.monotonic_ns())


async def _thaw(pid: int, after: float) -> None:
    try:
        await asyncio.sleep(after)
    finally:
        _send(pid, signal.SIGCONT)


async def _replaced(mesh: Mesh, victim: str, pid: int) -> None:
    while True:
        if mesh.pid(victim) != pid:
            return
        await asyncio.sleep(0.02)


async def _well(watch: Watch) -> None:
    while True:
        if not await watch.unwell():
            return
        await asyncio.sleep(0.1)


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
