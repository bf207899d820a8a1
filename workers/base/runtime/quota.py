"""A request's part of the worker's limits, from its arrival to its end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from bus import Bus
from contracts import ErrorCode
from workers.base.engines.engine_set import EngineSet
from workers.base.interface.backend import EmbeddingJob, Job
from workers.base.provider.connection import listening
from workers.base.provider.errors import ProviderRefused
from workers.base.rate_limits.account import Account
from workers.base.rate_limits.limits import Hold
from workers.base.runtime.execution import Execution

TELL_EVERY = 1.0
"""Seconds between two reports to the workers that share the account."""


class Quota:
    def __init__(self, bus: Bus, engines: EngineSet, backend: str, worker_id: str) -> None:
        self._bus = bus
        self._engines = engines
        self._backend = backend
        self._id = worker_id
        self._account: Account | None = None

    @asynccontextmanager
    async def place(self, execution: Execution, job: Job | EmbeddingJob) -> AsyncIterator[Callable[[], None]]:
        """Holds what the request may use; call the yielded function when it begins. Raises
        `BullpenError(rate_limited)`.
        """
        limits, now = self._engines.limits, execution.call.clock
        hold = limits.need(job)
        await self._hold(hold, now())
        listening.set(lambda headers: limits.of(hold.model).hear(headers, now()))
        try:
            yield lambda: limits.begin(hold, now())
        except ProviderRefused as error:
            if error.code is ErrorCode.RATE_LIMITED:
                told, whole = error.retry_after_ms or 0, error.fault == "account"
                error.retry_after_ms = limits.refused(hold.model, told, now(), whole_account=whole)
            raise
        finally:
            limits.settle(hold, execution.told_or_seen, now())

    async def _hold(self, hold: Hold, now: float) -> None:
        account = self._shared()
        if account is None:
            self._engines.limits.hold(hold, now)
        else:
            await account.hold(hold)

    async def keep(self) -> None:
        """Reports this worker's use to the workers that share its account, until cancelled."""
        while True:
            await asyncio.sleep(TELL_EVERY)
            if (account := self._shared()) is not None:
                await account.tell()

    def _shared(self) -> Account | None:
        """The account in the present config; None: the worker shares none."""
        name = self._engines.current.config.account
        if name is None:
            self._account = None
        elif self._account is None or self._account.name != f"{self._backend}_{name}":
            self._account = Account(self._bus, f"{self._backend}_{name}", self._id, self._engines.limits)
        return self._account
