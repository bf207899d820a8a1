"""Whether a worker's backend is well: it is started, then asked now and then. It never gives up."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from contracts import BullpenError, WorkerState
from workers.base.engines.engine_set import Engine
from workers.base.runtime.presence import Presence

log = structlog.get_logger(__name__)

Become = Callable[[WorkerState, str], Awaitable[None]]


class Health:
    def __init__(self, engine: Engine, presence: Presence, become: Become) -> None:
        """`become` is told the state, and why, each time the backend was looked at."""
        self._engine = engine
        self._backend = engine.backend
        self._presence = presence
        self._become = become

    async def keep(self) -> None:
        """Starts the backend, then looks after it, until cancelled."""
        while not await self._started():  # noqa: ASYNC110 — this tries again, it does not wait for a change
            await asyncio.sleep(self._engine.config.health_interval)
        await self.watch()

    async def watch(self) -> None:
        """Looks after a backend that is started, until cancelled."""
        while True:
            await asyncio.sleep(self._engine.config.health_interval)
            await self._check()

    async def _started(self) -> bool:
        try:
            await self._backend.start(self._presence.report)
        except BullpenError as error:
            await self._become("degraded", error.message)
            return False
        except Exception as error:
            log.exception("backend_start_failed", backend=self._backend.name)
            await self._become("degraded", f"the backend could not start: {type(error).__name__}")
            return False
        self._engine.models = self._presence.models = self._backend.models()
        await self._become("ready", "")
        return True

    async def _check(self) -> None:
        try:
            async with asyncio.timeout(max(5.0, self._engine.config.health_interval)):
                await self._backend.health()
        except BullpenError as error:
            await self._become("degraded", error.message)
        except TimeoutError:
            await self._become("degraded", "the backend does not answer its health check")
        except Exception as error:
            log.exception("health_check_failed", backend=self._backend.name)
            await self._become("degraded", f"the health check failed: {type(error).__name__}")
        else:
            await self._become("ready", "")
