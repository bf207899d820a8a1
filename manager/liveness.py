"""Which workers live: listens for heartbeats and departures, and ends the attempts of workers that are gone.

There are three signs of a death, the quickest first: the server's disconnect event, missing heartbeats, and a heartbeat
with another epoch. A Manager that was disconnected itself may have missed events, so it then asks the server which
clients are connected.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from time import time

import structlog
from pydantic_core import from_json

from bus import Bus, BusError, Message
from bus.connected_clients import connected
from bus.once import Once
from contracts import BullpenError, ControlRequest, Heartbeat, read_heartbeat
from contracts import subjects as s
from manager.request.shared_state import SharedState
from manager.request.state import RequestState
from manager.routing.registry import RETURN_WITHIN, News, WorkerView

log = structlog.get_logger(__name__)

SWEEP_EVERY = 0.1
WARM_UP = 1.25
"""Seconds after (re)connecting in which an empty registry means "not heard yet", not "no worker"."""
CUT_BY_SERVER = ("Stale", "Slow Consumer")
"""How the server's reasons begin when it ended a connection itself: that worker was frozen, not dead."""
ACQUAINT_EVERY = 1.0
"""Seconds between two questions to the server about workers that are new here."""
REPORTS = (0.0, 0.3, 0.7, 1.0, 1.5)
"""Seconds between two questions, after a reconnect, to workers that had requests."""


class LivenessMonitor:
    def __init__(self, bus: Bus, shared: SharedState, state: Callable[[], list[RequestState]]) -> None:
        """`state` returns the requests under way, and those that a worker may still work on in vain."""
        self._bus = bus
        self._shared = shared
        self._registry = shared.registry
        self._running = state
        self._names: frozenset[str] = frozenset()
        """The names of all connections, as the server listed them last."""
        self._strangers = asyncio.Event()
        """New workers were heard of since the server was asked last."""
        self._told = Once()

    async def listen(self) -> None:
        self._shared.warm_at = self._shared.now() + WARM_UP
        self._bus.on_reconnect.append(self.reconnected)
        await self._bus.subscribe_inline(s.WORKER_HEARTBEATS, self._on_heartbeat)
        await self._bus.subscribe_inline(s.WORKER_HEARTBEAT, self._on_heartbeat)
        await self._bus.subscribe_inline(s.SYS_DISCONNECT, self._on_disconnect)

    async def sweep(self) -> None:
        """Finds workers whose heartbeats are missing, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            if self._bus.is_connected:
                for worker_id in self._registry.sweep(self._shared.now(), SWEEP_EVERY):
                    log.warning("worker_silent", worker_id=worker_id)
                for worker in [m for m in self._registry if m.silent and m.assigned]:
                    self._give_up_on(worker)
                self._shared.call_stranded()

    async def acquaint(self) -> None:
        """Asks the server, when workers are new, which clients are connected: a made-up worker has no connection. Runs
        until cancelled.
        """
        while True:
            await self._strangers.wait()
            self._strangers.clear()
            names = await self._connected() if self._bus.is_connected else None
            if names is not None:
                self._names = names
                self._registry.vouch(names)
            await asyncio.sleep(ACQUAINT_EVERY)

    async def reconcile(self) -> None:
        """Asks the server which clients are connected, once every worker had time for a heartbeat; until cancelled."""
        seen = -1
        while True:
            await asyncio.sleep(WARM_UP)
            early = self._shared.now() < self._shared.reconnected_at + RETURN_WITHIN
            if self._bus.reconnects == seen or early or not self._bus.is_connected:
                continue
            seen, since = self._bus.reconnects, self._shared.reconnected_at
            names = await self._connected()
            for worker in [m for m in self._registry if not m.gone and m.heard <= since]:
                name = s.worker_connection_name(worker.heartbeat.backend, worker.worker_id)
                if names and name not in names:
                    self._leave(worker.worker_id, "not connected any more", died=False)

    async def reconnected(self) -> None:
        """Our connection was lost: no silence counts as a death until workers had time to speak again."""
        now = self._shared.now()
        self._shared.reconnected_at = now
        self._shared.warm_at = now + RETURN_WITHIN
        self._registry.excuse_until(now + RETURN_WITHIN - WARM_UP)
        for pause in REPORTS:
            await asyncio.sleep(pause)
            await self._ask_how_it_stands(since=now)

    async def _ask_how_it_stands(self, since: float) -> None:
        """What workers said while we were away is lost: each is asked about its attempts that were not heard of
        since.
        """
        for state in self._running():
            for attempt in [a for a in state.running if a.heard_at <= since]:
                asked = ControlRequest(
                    op="report", request_id=state.request_id, attempt=attempt.number, inbox=attempt.inbox
                )
                with suppress(BusError):  # away again: the next reconnect asks again
                    await self._bus.publish(s.worker_control(attempt.worker_id), asked.to_bytes())

    async def _connected(self) -> frozenset[str] | None:
        try:
            return await connected(self._bus)
        except BusError as error:
            log.debug("census_failed", error=str(error))
            return None

    def _on_heartbeat(self, message: Message) -> None:
        try:
            beat = read_heartbeat(message.data, message.subject)
        except BullpenError as error:
            if self._told.first(message.subject, error.field):
                log.warning("heartbeat_refused", subject=message.subject, field=error.field, error=error.message)
            return
        connected = s.worker_connection_name(beat.backend, beat.worker_id) in self._names
        named = message.subject != s.WORKER_HEARTBEAT
        is_new = self._registry.get(beat.worker_id) is None
        news = self._registry.hear(beat, self._shared.now(), wall=time(), named=named, connected=connected)
        if is_new and not connected:
            self._strangers.set()
        match news:
            case News.VOID:
                self._lost(beat.worker_id, "it restarted or stopped", died=True)
            case News.BACK:
                self._call_off(beat)
            case News.SUPERSEDED:
                self._supersede(beat)
            case News.REFUSED:
                self._refuse(beat)
            case _:
                pass
        worker = self._registry.get(beat.worker_id)
        if worker is not None:
            self._shared.call_to(worker, worker.free)

    def _call_off(self, beat: Heartbeat) -> None:
        """Repeats the cancels that a disconnected worker cannot have heard."""
        for state in self._running():
            for attempt in state.given_up_on(beat.worker_id, beat.epoch):
                self._shared.metrics.tell(s.worker_control(beat.worker_id), state.cancel(attempt))

    def _supersede(self, beat: Heartbeat) -> None:
        """Two processes use one worker id: the older one is told to leave."""
        newest = self._registry.get(beat.worker_id)
        assert newest is not None
        log.warning("worker_superseded", worker_id=beat.worker_id, epoch=beat.epoch)
        told = ControlRequest(op="superseded", epoch=newest.heartbeat.epoch)
        self._shared.metrics.tell(s.worker_control(beat.worker_id), told)

    def _refuse(self, beat: Heartbeat) -> None:
        """The worker is not taken in: its id belongs to another one, or too many workers are unknown. Logged once."""
        known = self._registry.get(beat.worker_id)
        why = "too many workers are here that no one knows" if known is None else "the id is another worker's"
        if self._told.first(why):
            log.warning("worker_refused", worker_id=beat.worker_id, backend=beat.backend, field="worker_id", why=why)

    def _on_disconnect(self, message: Message) -> None:
        """Takes the server's event that a connection has ended: the quickest sign of a death."""
        try:
            event = from_json(message.data)
            name, reason = event["client"].get("name", ""), str(event.get("reason", ""))
            connection = f"{event.get('server', {}).get('id')}:{event['client'].get('id')}"
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        worker_id = s.worker_of_connection(name)
        if worker_id is None or self._is_of_another(worker_id, connection):
            return
        if self._shared.now() < self._shared.reconnected_at + WARM_UP:
            return  # of a connection that was lost with ours; a worker that did not come back is found by `reconcile`
        if reason.startswith(CUT_BY_SERVER) and self._stands_still(worker_id):
            return  # as it said: it comes back over another one
        self._leave(worker_id, "disconnected", died=not reason.startswith(CUT_BY_SERVER))

    def _is_of_another(self, worker_id: str, connection: str) -> bool:
        """Whether the ended connection belonged to another process with this worker's id, or was an older one of its
        own.
        """
        worker = self._registry.get(worker_id)
        current = worker and worker.heartbeat.connection
        return current is not None and current != connection

    def _stands_still(self, worker_id: str) -> bool:
        """Whether the worker announced a silence that is not over yet."""
        worker = self._registry.get(worker_id)
        return worker is not None and self._shared.now() < worker.heard + worker.pause

    def _leave(self, worker_id: str, why: str, *, died: bool) -> None:
        if self._registry.leave(worker_id, why, back_by=self._shared.now() + RETURN_WITHIN):
            log.info("worker_left", worker_id=worker_id, why=why)
            self._lost(worker_id, why, died=died)

    def _lost(self, worker_id: str, why: str, *, died: bool) -> None:
        """Ends the attempts that run at a dead worker: their requests ask another one."""
        for state in self._running():
            state.lost(worker_id, why, died=died)

    def _give_up_on(self, worker: WorkerView) -> None:
        """A worker's heartbeats are missing. Attempts that still show progress go on; the others move to another
        worker.
        """
        now = self._shared.now()
        for state in self._running():
            for attempt in state.running:
                if attempt.choice.worker is worker and self._registry.nothing_heard(worker, attempt.heard_at, now):
                    state.lost(worker.worker_id, "silent", died=False)
