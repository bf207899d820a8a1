"""Answers of simulated workers that come when a test says so: a busy machine looks too late at what lasts a moment.

Use the fixture `gate`, ask `gate.prompt`, and open it. Other questions are answered as ever.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from workers.base import Delta, Done, Job
from workers.simulated.backend import SimulatedBackend


class Gate:
    """Questions that say `prompt` wait inside their worker, which has begun them, until it is open."""

    prompt = "wait until the gate is open"

    def __init__(self) -> None:
        self._opened = asyncio.Event()
        self.waiting = 0
        """Questions before it now."""
        self.most = 0
        """The most that were before it at a time."""

    def open(self) -> None:
        self._opened.set()

    def close(self) -> None:
        self._opened.clear()

    def hold(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on the simulated workers of this process wait for it."""
        answer = SimulatedBackend.stream

        async def stream(backend: SimulatedBackend, job: Job) -> AsyncGenerator[Delta | Done, None]:
            if job.request.question == self.prompt:
                await self._pass()
            async with aclosing(answer(backend, job)) as pieces:
                async for piece in pieces:
                    yield piece

        monkeypatch.setattr(SimulatedBackend, "stream", stream)

    async def _pass(self) -> None:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await self._opened.wait()
        finally:
            self.waiting -= 1
