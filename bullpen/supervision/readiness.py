"""Heartbeats and pings of the roles, as `bullpen up` follows them."""

import asyncio
import time
from collections.abc import Callable

from pydantic import TypeAdapter, ValidationError

from bullpen.supervision.silence import LOOK_EVERY, SilenceWatch
from bus import Bus, BusError, BusSettings, Message
from client.client import GATEWAY_SERVICE, ServiceInfo
from contracts import (
    BullpenError,
    ControlReply,
    ControlRequest,
    Heartbeat,
    MeshMetrics,
    TelemetryMetrics,
    WorkerState,
    read_heartbeat,
)
from contracts import subjects as s

PING_WAIT = 0.5
"""Seconds for an answer to a `$SRV.PING`."""
REFUSED_FOR_MS = 4000
"""Milliseconds without an acknowledged event after which a Manager's events count as refused."""
_SOURCES: TypeAdapter[MeshMetrics | TelemetryMetrics] = TypeAdapter(MeshMetrics | TelemetryMetrics)


class MeshWatch:
    """Follows the mesh, and reports when a worker or the books fail, and when they recover."""

    def __init__(self, bus: Bus, tell: Callable[[str], None]) -> None:
        self._bus = bus
        self._tell = tell
        self.worker_ids: frozenset[str] = frozenset()
        """The workers to listen for."""
        self._workers: dict[str, Heartbeat] = {}
        self._heard: set[str] = set()
        self._away: dict[str, str] = {}
        self._silence = SilenceWatch()
        self.on_refused: Callable[[], None] = lambda: None
        """Called when a Manager's events for the books are not acknowledged."""

    @property
    def bus(self) -> Bus:
        return self._bus

    @classmethod
    async def open(cls, settings: BusSettings, tell: Callable[[str], None]) -> "MeshWatch":
        """Connects and subscribes. Raises `BusUnreachable`."""
        watch = cls(await Bus.connect("bullpen:up", settings), tell)
        await watch._bus.subscribe_inline(s.WORKER_HEARTBEAT, watch._on_heartbeat)
        await watch._bus.subscribe_inline(s.METRICS_MESH, watch._on_metrics)
        return watch

    async def close(self) -> None:
        await self._bus.close()

    async def answers(self, process: str) -> bool:
        """Whether a Manager or telemetry process (`manager-1`) answers `$SRV.PING`."""
        service = f"bullpen-{process.partition('-')[0]}"
        try:
            await self._bus.request(f"$SRV.PING.{service}.{process}", b"", timeout=PING_WAIT)
        except BusError:
            return False
        return True

    async def http_url(self, process: str) -> str | None:
        """The address of a gateway's process (`gateway-1`); None: it does not answer with one."""
        try:
            answer = await self._bus.request(f"$SRV.PING.{GATEWAY_SERVICE}.{process}", b"", timeout=PING_WAIT)
            return ServiceInfo.model_validate_json(answer.data).metadata.get("url")
        except (BusError, ValidationError):
            return None

    async def serves(self, process: str) -> bool:
        """Whether a role's process works: a worker has to be ready, other roles have to answer."""
        role, _, role_id = process.partition("-")
        if role != "worker":
            return await self.answers(process)
        try:
            body = ControlRequest(op="status").to_bytes()
            reply = await self._bus.request(s.worker_control(role_id), body, timeout=PING_WAIT)
            beat = ControlReply.model_validate_json(reply.data).heartbeat
        except (BusError, ValidationError):
            return False
        return beat is not None and beat.state == "ready"

    async def keep_looking(self, tell: Callable[[str, float | None], None]) -> None:
        """Calls `tell` for each worker that falls silent, with the seconds since its last heartbeat, or None when it is
        back.
        """
        while True:
            now = time.monotonic()
            for worker_id, is_silent in list(self._silence.look(now, connected=self._bus.is_connected)):
                tell(worker_id, now - self._silence.since(worker_id) if is_silent else None)
            await asyncio.sleep(LOOK_EVERY)

    def silent(self) -> dict[str, float]:
        """The silent workers, each with the seconds since its last heartbeat."""
        now = time.monotonic()
        return {worker_id: now - self._silence.since(worker_id) for worker_id in sorted(self._silence.silent)}

    def started_anew(self, worker_id: str) -> None:
        """Forgets what was heard of the worker: its process is another one, or gone."""
        self._silence.forget(worker_id)

    def missing(self, process: str) -> str:
        """Why an accountant (`telemetry-1`) books nothing now, in its own words; empty: it reported nothing."""
        return self._away.get(process, "")

    def listen_anew(self) -> None:
        """Forgets all heartbeats: no worker counts as heard until its next one."""
        self._heard.clear()

    def unheard(self) -> list[str]:
        """The workers' processes without a heartbeat yet."""
        return [f"worker-{worker_id}" for worker_id in sorted(self.worker_ids - self._heard)]

    def loading(self) -> list[str]:
        """The workers that cannot answer yet, each with its own reason."""
        beats = sorted(self._workers.values(), key=lambda beat: beat.worker_id)
        return [f"worker-{beat.worker_id}: {beat.reason or beat.state}" for beat in beats if beat.state == "starting"]

    def serving(self) -> bool:
        """Whether any of our workers is ready."""
        return any(beat.state == "ready" for beat in self._workers.values())

    def _on_heartbeat(self, message: Message) -> None:
        try:
            beat = read_heartbeat(message.data)
        except BullpenError:
            return
        if beat.worker_id in self.worker_ids:
            self._heard.add(beat.worker_id)
            self._silence.hear(beat, time.monotonic())
            before = self._workers.get(beat.worker_id)
            self._workers[beat.worker_id] = beat
            self._tell_change(before.state if before else "starting", beat)

    def _on_metrics(self, message: Message) -> None:
        try:
            told = _SOURCES.validate_json(message.data)
        except ValidationError:
            return
        if isinstance(told, TelemetryMetrics):
            self._tell_books(told)
        elif told.outbox_refused_ms >= REFUSED_FOR_MS:
            self.on_refused()

    def _tell_books(self, told: TelemetryMetrics) -> None:
        before, self._away[told.source] = self._away.get(told.source, ""), told.database_away
        if told.database_away and not before:
            self._tell(f"{told.source} cannot book: {told.database_away}; answers go on, and are booked when it can")
        elif before and not told.database_away:
            self._tell(f"{told.source} books again")

    def _tell_change(self, before: WorkerState, beat: Heartbeat) -> None:
        if beat.state == "degraded" != before:
            self._tell(f"worker-{beat.worker_id} cannot answer: {beat.reason}")
        elif beat.state == "ready" and before == "degraded":
            self._tell(f"worker-{beat.worker_id} can answer again")
