"""Something we need is away: try again, ever less often and with jitter, and say what to do about it."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")

FIRST_PAUSE = 0.1


async def nothing() -> None:
    """What there is to do while we wait, when there is nothing."""


class RetryForever:
    """Waits for one thing. It never gives up: whoever has enough cancels."""

    def __init__(self, what: str, gone: type[Exception], longest: float, cure: str) -> None:
        self._what = what
        self._gone = gone
        self._longest = longest
        self._cure = cure
        self._failures = 0
        self.away = ""
        """Why it is away; empty while it is there."""

    async def until_done(
        self, work: Callable[[], Awaitable[T]], meanwhile: Callable[[], Awaitable[None]] = nothing
    ) -> T:
        """The result of `work`, repeated while it raises that the thing is gone; other errors pass."""
        pause = FIRST_PAUSE
        while True:
            try:
                result = await work()
            except self._gone as error:
                self._failed(str(error))
                await meanwhile()
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 — jitter, not a secret
                pause = min(pause * 2, self._longest)
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
