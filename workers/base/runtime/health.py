"""Whether a worker's backend is well: it is started, then checked at intervals, for as long as the worker runs.

Failures of requests count too. A refused key (401) makes the worker degraded at once. 402 and 403 may concern one
request only (a flagged prompt, one that is too expensive): they lead to a health check at once, and only that check
makes the worker degraded. A model that the provider no longer knows also leads to a check, which reads the list of
models again.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from contracts import BullpenError, ErrorCode, WorkerState
from workers.base.engines.engine_set import Engine
from workers.base.provider.errors import ProviderRefused, blamed
from workers.base.runtime.presence import Presence

log = structlog.get_logger(__name__)

APART = 1.0
"""Seconds between two checks at least, however many failures ask for one."""
Become = Callable[[WorkerState, str], Awaitable[None]]


class Health:
    def __init__(self, engine: Engine, presence: Presence, become: Become) -> None:
        """`become` is called with the state and its reason after each check."""
        self._engine = engine
        self._backend = engine.backend
        self._presence = presence
        self._become = become
        self._wanted = asyncio.Event()
        """Set when a check is wanted before its time."""
        self._looked = float("-inf")
        """When the last check began (loop's clock)."""
        self._refused = False
        """Whether the last check was refused: then the same refusal of a request is the account's fault."""

    async def keep(self) -> None:
        """Starts the backend, then checks it at intervals, until cancelled."""
        while not await self._started():  # noqa: ASYNC110 — this tries again, it does not wait for a change
            await asyncio.sleep(self._engine.config.health_interval)
        await self.watch()

    async def watch(self) -> None:
        """Checks a started backend at intervals, until cancelled."""
        while True:
            await self._due()
            await self._check()

    # What requests met

    def blame(self, failure: BullpenError, *, asked: bool) -> BullpenError:
        """The same failure, with `fault` set. `asked`: the backend was asked."""
        if self._refused and failure.code is ErrorCode.UPSTREAM_AUTH:
            failure.fault = "account"
        return blamed(failure, asked=asked)

    async def heed(self, failure: BullpenError) -> None:
        """Makes the worker degraded, or asks for a check, if a request's failure is a reason for it."""
        if failure.code is ErrorCode.UPSTREAM_AUTH and failure.fault == "account":
            told = failure.message.partition(":")[0]  # the rest is the provider's, who may quote the question
            await self._become("degraded", told)
        elif failure.code is ErrorCode.UPSTREAM_AUTH or _is_unknown_there(failure):
            self._wanted.set()

    async def notice(self) -> None:
        """Shows at once what a request taught the backend about its models."""
        if self._backend.changed:
            self._backend.changed = False
            await self._serve_what_is_there()

    # Looking

    async def _due(self) -> None:
        """Returns when the next check is due, or when one is wanted and the last one is old enough."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._engine.config.health_interval):
                await self._wanted.wait()
                await asyncio.sleep(self._looked + APART - asyncio.get_running_loop().time())
        self._wanted.clear()

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
        await self._serve_what_is_there()
        await self._become("ready", "")
        return True

    async def _check(self) -> None:
        self._looked = asyncio.get_running_loop().time()
        reason = await self._unwell()
        await self._serve_what_is_there()
        await self._become("degraded" if reason else "ready", reason)

    async def _unwell(self) -> str:
        """Why the backend cannot answer now; empty when it can."""
        self._refused = False
        try:
            async with asyncio.timeout(max(5.0, self._engine.config.health_interval)):
                await self._backend.health()
        except BullpenError as error:
            self._refused = error.code is ErrorCode.UPSTREAM_AUTH
            return error.message
        except TimeoutError:
            return "the backend does not answer its health check"
        except Exception as error:
            log.exception("health_check_failed", backend=self._backend.name)
            return f"the health check failed: {type(error).__name__}"
        return ""

    async def _serve_what_is_there(self) -> None:
        """Sends a heartbeat at once when the served models have changed."""
        before, now = self._engine.models, self._backend.models()
        if now == before:
            return
        self._engine.models = self._presence.models = now
        if before:
            log.info("models_changed", models=[card.model_id for card in now if card.capabilities])
            await self._presence.say()


def _is_unknown_there(failure: BullpenError) -> bool:
    return failure.code is ErrorCode.NO_SUCH_MODEL and isinstance(failure, ProviderRefused)
