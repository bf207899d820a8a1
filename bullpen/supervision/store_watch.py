"""Notices when our own NATS server stores nothing any more, and restarts it when that helps.

After a full disk a server goes on refusing when there is room again: publishers get no answer, while its API and its
health page look healthy. A restart heals it within a second, and everything that waited is stored. While the disk is
full, or a limit of JetStream's own is reached, a restart would not help, and none is made.
"""

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import structlog

from bus import Bus, BusError
from bus.backoff import Backoff
from bus.jetstream import Refusal, write_refused
from contracts import subjects as s

log = structlog.get_logger(__name__)

LOOK_EVERY, LOOK_SOON = 60.0, 5.0
"""Seconds between two test writes; the second while something is wrong."""
WITHIN = 2.0
SURE_AFTER = 2
"""Test writes refused in a row before a restart: a busy disk may be slow once."""
AGAIN = Backoff(30.0, 600.0)
"""Seconds before the next restart when the last one did not help."""
LEAST_ROOM = 64 << 20
"""Free bytes that the server needs."""
PROBE = 64 << 10

Step = Literal["nothing", "tell", "restart"]


@dataclass(slots=True)
class StoreState:
    """The state of the store so far. Pure: `step` decides; `now` in seconds."""

    refused: int = 0
    """Test writes refused in a row."""
    restarts: int = 0
    """Restarts in a row after which no test write succeeded."""
    not_before: float = 0.0

    def step(self, refusal: Refusal | None, room: bool, now: float) -> Step:
        """The action after a test write."""
        if refusal is None:
            self.refused = self.restarts = 0
            return "nothing"
        self.refused += 1
        if not (refusal.stuck and room and self.refused >= SURE_AFTER and now >= self.not_before):
            return "tell"
        self.restarts += 1
        self.not_before = now + AGAIN.ceiling(self.restarts)
        return "restart"


class StoreWatch:
    """Watches the store in `folder` while `keep` runs."""

    def __init__(
        self, bus: Bus, folder: Path, restart: Callable[[], Awaitable[None]] | None, tell: Callable[[str], None]
    ) -> None:
        """`restart`: restarts the server; None: it is not ours. `tell` gets lines for people."""
        self._bus = bus
        self._folder = folder
        self._restart = restart
        self._tell = tell
        self._state = StoreState()
        self._said = ""
        self._hurry = asyncio.Event()

    def look_soon(self) -> None:
        """Tests soon, because a role's events are not acknowledged."""
        self._hurry.set()

    async def keep(self) -> None:
        """Tests the store from time to time, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_SOON if self._state.refused else LOOK_EVERY):
                    await self._hurry.wait()
            except TimeoutError:
                pass
            self._hurry.clear()
            try:
                await self.look()
            except BusError as error:
                log.debug("store_not_looked_at", error=str(error))

    async def look(self) -> None:
        """Makes one test write, and acts on its result. Raises `BusError` when the server cannot be asked."""
        refusal = await write_refused(self._bus, s.TELEMETRY_CHECK, timeout=WITHIN)
        trouble = await _trouble(self._folder) if refusal else ""
        step = self._state.step(refusal, not trouble, asyncio.get_running_loop().time())
        if refusal is None:
            self._say("NATS keeps what is written again" if self._said else "")
            self._said = ""
        elif step == "restart" and self._restart is not None:
            self._say(f"NATS keeps nothing any more ({refusal.reason}), though there is room: restarting it")
            await self._restart()
        elif self._state.refused >= SURE_AFTER:
            self._say(f"NATS keeps nothing ({trouble or refusal.reason}): answers go on, the books wait")

    def _say(self, line: str) -> None:
        """Reports a line, unless it is the last one again."""
        if line and line != self._said:
            self._tell(line)
        self._said = line


async def _trouble(folder: Path) -> str:
    """Why the folder takes no writes; empty: it does, with room to spare."""
    try:
        async with asyncio.timeout(WITHIN):
            return await asyncio.to_thread(no_room, folder)
    except TimeoutError:
        return f"the disk of {folder} is very slow"


def no_room(folder: Path, least: int = LEAST_ROOM) -> str:
    """Why this folder takes no writes: fewer than `least` bytes are free, or a test write fails; empty: it does."""
    probe = folder / ".room"
    try:
        free = shutil.disk_usage(folder).free
        if free < least:
            return f"the disk is full: {free >> 20} MiB free in {folder}"
        file = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(file, bytes(PROBE))
            os.fsync(file)
        finally:
            os.close(file)
            probe.unlink(missing_ok=True)
    except OSError as error:
        return f"{folder} cannot be written: {error.strerror}"
    return ""
