"""What a worker shows of itself: its state, its load, its heartbeats."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from time import time

import structlog

from bus import Bus, BusError
from bus.service import package_version
from config.watched_file import config_digest
from contracts import BullpenError, Heartbeat, JsonObject, ModelCard, WorkerEventRecord, WorkerState, new_id, utc_now
from contracts.heartbeat import MOST_MODELS
from contracts.subjects import TELEMETRY_WORKER, WORKER_HEARTBEAT, worker_heartbeat
from outbox.outbox import Outbox
from workers.base.engines.engine_set import EngineSet
from workers.base.host.resources import ResourceMeter
from workers.base.interface.config import BackendConfig
from workers.base.runtime.execution import Execution

log = structlog.get_logger(__name__)

LOADING_PAUSE = 10.0
"""Seconds: the least silence that the worker announces while it loads a model, because some libraries stop the whole
process meanwhile.
"""
STOOD_STILL = 1.0
"""Seconds by which a heartbeat is late when the process was frozen or got no processor time."""
WEIGHT = 0.2
"""Weight of the last request in the moving averages."""


class Presence:
    def __init__(self, bus: Bus, outbox: Outbox, backend: str, worker_id: str, *, engines: EngineSet) -> None:
        self._bus = bus
        self._outbox = outbox
        self._backend = backend
        self._id = worker_id
        self._engines = engines
        self.meter = ResourceMeter()
        self._seq = 0
        self._started_at = utc_now()
        self._config = engines.current.config
        self._digest = config_digest(self._config)
        self._pause = 0.0
        self._service_ms: float | None = None
        self._tokens_per_second: float | None = None
        self.epoch = new_id()
        self.state: WorkerState = "starting"
        self.reason = ""
        self.card = {"backend": backend, "worker_id": worker_id, "state": str(self.state)}
        """What service discovery shows: a caller that checks the worker's health needs no right to send control
        requests.
        """
        self.models: tuple[ModelCard, ...] = ()

    async def become(self, state: WorkerState, reason: str = "") -> None:
        """Changes the state, sends a heartbeat at once, and books the change. If the state stays the same, only the
        reason changes.
        """
        previous, self.state, self.reason = self.state, state, reason
        self.card["state"] = state
        if state == previous:
            return
        log.info("worker_state", worker_id=self._id, state=state, previous=previous, reason=reason)
        self.book(previous, reason, {})
        await self.say()

    def book(self, previous: WorkerState, reason: str, detail: JsonObject) -> None:
        """Sends a worker event to the books."""
        event_id = new_id()
        record = WorkerEventRecord(
            event_id=event_id,
            created_at=utc_now(),
            worker_id=self._id,
            backend=self._backend,
            epoch=self.epoch,
            state=self.state,
            previous=previous,
            reason=reason,
            detail=detail,
        )
        self._outbox.put(TELEMETRY_WORKER, record, event_id)

    def serve(self, config: BackendConfig, models: tuple[ModelCard, ...]) -> None:
        """Sets the config and the models that are served from now on; the next heartbeat shows them."""
        if [card.model_id for card in models] != [card.model_id for card in self.models]:
            self._service_ms = self._tokens_per_second = None
        self._config, self._digest, self.models = config, config_digest(config), models

    @property
    def config_digest(self) -> str:
        return self._digest

    @contextmanager
    def loading(self, seconds: float) -> Iterator[None]:
        """Announces a silence of about `seconds` while a model loads: the process may stand still, and must not be
        taken for dead.
        """
        self._pause = max(seconds, LOADING_PAUSE)
        try:
            yield
        finally:
            self._pause = 0.0
            self.reason = "" if self.state == "ready" else self.reason

    def report(self, progress: str) -> None:
        """Sets how far a long step is; the next heartbeat shows it."""
        self.reason = progress

    async def beat(self) -> None:
        """Sends a heartbeat every interval and after each reconnect, until cancelled."""
        self._bus.on_reconnect.append(self.say)
        now = asyncio.get_running_loop().time
        while True:
            await self.say()
            due = now() + self._config.heartbeat_interval
            await asyncio.sleep(due - now())
            if now() > due + STOOD_STILL:  # whoever missed us asks us again at once: our connection has to hold then
                await self._bus.prove()

    async def learn(self, execution: Execution, failure: BullpenError | None) -> None:
        """Adds a finished request to the moving averages and to its model's record of trouble."""
        if execution.started is None or execution.job is None:
            return
        now = asyncio.get_running_loop().time()
        if self._engines.troubles.ended(execution.job.model.model_id, failure, now):
            await self.say()
        if execution.done is None:
            return
        self._service_ms = _moved(self._service_ms, (now - execution.started) * 1000)
        if now > execution.started and execution.completion_tokens:
            rate = execution.completion_tokens / (now - execution.started)
            self._tokens_per_second = _moved(self._tokens_per_second, rate)

    def heartbeat(self) -> Heartbeat:
        now = asyncio.get_running_loop().time()
        return Heartbeat(
            worker_id=self._id,
            backend=self._backend,
            models=tuple(self._as_told(card, now) for card in self.models[:MOST_MODELS]),
            state=self.state,
            reason=self.reason,
            inflight=self._engines.inflight,
            queued=self._engines.queued,
            capacity=self._engines.capacity,
            rate=self._engines.limits.rate(now, [card.model_id for card in self.models if card.capabilities]),
            resources=self.meter.read(),
            tokens_per_second=self._tokens_per_second,
            ewma_ms=self._service_ms,
            epoch=self.epoch,
            seq=self._seq,
            interval_ms=round(1000 * self._config.heartbeat_interval),
            pause_ms=round(1000 * self._pause),
            started_at=self._started_at,
            sent_at=round(time() * 1000),
            connection=self._bus.connection_id,
            host=socket.gethostname(),
            version=package_version(),
            config_digest=self._digest,
        )

    def _as_told(self, card: ModelCard, now: float) -> ModelCard:
        """The model's card, with the trouble of its latest requests."""
        trouble = card.trouble or self._engines.troubles.of(card.model_id, now)
        return card if trouble == card.trouble else card.model_copy(update={"trouble": trouble})

    async def say(self, *, surely: bool = False) -> None:
        """Sends one heartbeat now: on the worker's own subject, which Managers trust, and on the open one, for other
        listeners.

        `surely`: returns only when the server has it, if the server can be reached.
        """
        self._seq += 1
        try:
            told = self.heartbeat().to_bytes()
            await self._bus.publish(worker_heartbeat(self._backend, self._id), told)
            await self._bus.publish(WORKER_HEARTBEAT, told)
            if surely:
                await self._bus.flush()
        except BusError as error:
            log.debug("heartbeat_not_sent", error=str(error))


def _moved(average: float | None, value: float) -> float:
    return value if average is None else average + WEIGHT * (value - average)
