"""Tries again for ever, at growing intervals, while the database or JetStream is away, and logs what to do about it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from bus.backoff import Backoff

log = structlog.get_logger(__name__)

T = TypeVar("T")

FIRST_PAUSE = 0.1


async def nothing() -> None:
    """Does nothing during a pause."""


class RetryForever:
    """Repeats work that needs one dependency. It never gives up: its owner cancels it."""

    def __init__(self, what: str, gone: type[Exception], longest: float, cure: str) -> None:
        self._what = what
        self._gone = gone
        self._backoff = Backoff(FIRST_PAUSE, longest)
        self._cure = cure
        self._failures = 0
        self.away = ""
        """Why the dependency is away; empty while it answers."""

    async def until_done(
        self, work: Callable[[], Awaitable[T]], meanwhile: Callable[[], Awaitable[None]] = nothing
    ) -> T:
        """The result of `work`, which is repeated while it raises `gone`; other errors are raised. `meanwhile` runs
        before each pause.
        """
        while True:
            try:
                result = await work()
            except self._gone as error:
                self._failed(str(error))
                await meanwhile()
                await asyncio.sleep(self._backoff.wait(self._failures))
            else:
                self._succeeded()
                return result

    def _failed(self, reason: str) -> None:
        self.away = reason
        self._failures += 1
        if self._failures.bit_count() == 1:  # at 1, 2, 4, 8 …, as the pauses grow
            log.warning(f"{self._what}_away", reason=reason, failures=self._failures, cure=self._cure)

    def _succeeded(self) -> None:
        if self.away:
            log.info(f"{self._what}_back", failures=self._failures)
        self.away, self._failures = "", 0
