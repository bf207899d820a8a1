"""Tasks with an owner, whose failures are logged; and waiting for work to end."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

log = structlog.get_logger(__name__)

CANCELLED_AGAIN = 5.0
"""Seconds that a cancelled task has to end before it is cancelled again."""


class Tasks:
    """A group of tasks; one that fails does not stop the others."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def finished(self) -> None:
        """Waits until no task is left."""
        while self._running:
            await asyncio.wait(self._running)

    async def cancel(self) -> None:
        """Cancels all tasks but the calling one, and cancels those again that go on: some libraries lose a
        cancellation.

        httpx does so when a connection fails in the same instant.
        """
        others = self._running - {asyncio.current_task()}
        while others:
            for task in others:
                task.cancel()
            _, others = await asyncio.wait(others, timeout=CANCELLED_AGAIN)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task_died", owner=self._owner, task=task.get_name(), exc_info=error)


class Idle:
    """Counts the pieces of work under way; `wait` returns when there are none."""

    def __init__(self) -> None:
        self._busy = 0
        self._event = asyncio.Event()
        self._event.set()

    def __len__(self) -> int:
        return self._busy

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Counts one piece of work until the end of the block."""
        self._busy += 1
        self._event.clear()
        try:
            yield
        finally:
            self._busy -= 1
            if not self._busy:
                self._event.set()

    async def wait(self) -> None:
        await self._event.wait()


async def first_of(*events: asyncio.Event) -> None:
    """Returns when one of the events is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
