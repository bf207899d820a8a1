"""How long this process did not run: watched, so that a role that stands still says so.

A frozen event loop cannot tell anything meanwhile; it tells afterwards, and `worst` has it for the role's figures.
"""

import asyncio

import structlog

log = structlog.get_logger(__name__)

LOOK_EVERY = 0.1
"""Seconds."""
WORTH_TELLING = 1.0
"""Seconds of standstill after which heartbeats and claims of others may have been missed."""


class LoopLag:
    def __init__(self, role: str) -> None:
        self._role = role
        self._worst = 0.0

    def take(self) -> float:
        """Seconds: the longest standstill since it was taken last."""
        worst, self._worst = self._worst, 0.0
        return worst

    def note(self, seconds: float) -> None:
        """A timer rang so late."""
        self._worst = max(self._worst, seconds)
        if seconds >= WORTH_TELLING:
            log.warning("loop_stood_still", role=self._role, seconds=round(seconds, 2))

    async def watch(self) -> None:
        """Until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + LOOK_EVERY
            await asyncio.sleep(LOOK_EVERY)
            self.note(max(0.0, clock() - due))
