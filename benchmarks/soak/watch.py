"""Eyes on the mesh from outside: who is well, who is busy, who holds how much, and what the books say."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self

import asyncpg
import psutil
from pydantic import ValidationError
from pydantic_core import from_json

from benchmarks.soak.history import AttemptRow, History, ResponseRow, Vitals
from benchmarks.soak.plan import Topology
from bullpen.supervision.mesh import Mesh
from bus import Bus, BusError, BusSettings, Message
from contracts import Heartbeat, MeshMetrics, RouteDecision
from contracts import subjects as s
from telemetry.stream import CONSUMER

PING_WITHIN, API_WITHIN = 0.5, 2.0
"""Seconds."""
RESPONSES = (
    "SELECT request_id::text, task_id, status, error_code, output, attempts, manager_id, replayed FROM responses"
)
ATTEMPTS = "SELECT request_id::text, attempt, worker_id, outcome FROM attempts"


class Watch:
    """Make it with `Watch.open`."""

    def __init__(self, bus: Bus, mesh: Mesh, topology: Topology, history: History) -> None:
        self._bus = bus
        self._mesh = mesh
        self._topology = topology
        self._history = history
        self._beats: dict[str, Heartbeat] = {}
        self._managers: dict[str, MeshMetrics] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, mesh: Mesh, topology: Topology, history: History) -> AsyncIterator[Self]:
        bus = await Bus.connect("soak:watch", BusSettings(servers=(mesh.endpoints.nats_url,)))
        watch = cls(bus, mesh, topology, history)
        await bus.subscribe_inline(s.WORKER_HEARTBEAT, watch._on_heartbeat)
        await bus.subscribe_inline(s.METRICS_MESH, watch._on_metrics)
        await bus.subscribe_inline(s.METRICS_ROUTE, watch._on_route)
        try:
            yield watch
        finally:
            await bus.close()

    def listen_anew(self) -> None:
        """What was heard before counts no more."""
        self._beats.clear()
        self._managers.clear()

    async def unwell(self) -> list[str]:
        """Who has not said since `listen_anew` that all is well, or does not answer."""
        beats = {f"worker-{worker_id}": beat for worker_id, beat in self._beats.items()}
        workers = [name for name in self._topology.victims("worker") if name not in beats]
        workers += [f"{name} is {beat.state}" for name, beat in beats.items() if beat.state != "ready"]
        services = [*self._topology.victims("manager"), *self._topology.victims("telemetry")]
        answers = await asyncio.gather(*map(self._answers, services))
        return [*workers, *(name for name, well in zip(services, answers, strict=True) if not well)]

    def busy(self) -> tuple[str, ...]:
        """Who has work under way, or has not said since `listen_anew` that it has none."""
        found = [f"{name} is not heard" for name in self._topology.victims("manager") if name not in self._managers]
        found += [f"{beat.worker_id} has {n}" for beat in self._beats.values() if (n := beat.inflight + beat.queued)]
        for manager in self._managers.values():
            for what, count in (
                ("requests", manager.inflight + manager.waiting),
                ("events to be booked", manager.outbox_pending),
            ):
                found += [f"{manager.source} has {count} {what}"] if count else []
        return tuple(found)

    def vitals(self) -> dict[str, Vitals]:
        """By process; the caller's own is "client"."""
        roles = [name for role in ("manager", "worker", "telemetry") for name in self._topology.victims(role)]
        pids = {**{name: self._mesh.pid(name) for name in roles}, "client": psutil.Process().pid}
        found: dict[str, Vitals] = {}
        for name, pid in pids.items():
            with suppress(psutil.NoSuchProcess):
                found[name] = _vitals(psutil.Process(pid))
        return found

    async def read_books(self) -> None:
        """The rows, and what is not booked yet, into the history. Raises `OSError`, `PostgresError`, `BusError`."""
        connection = await asyncpg.connect(self._mesh.endpoints.database_url, timeout=10)
        try:
            history = self._history
            history.responses = [ResponseRow(*row) for row in await connection.fetch(RESPONSES)]
            history.attempts = [AttemptRow(*row) for row in await connection.fetch(ATTEMPTS)]
            history.dead_letters = await connection.fetchval("SELECT count(*) FROM dead_letters")
            history.unbooked_events = await self._unbooked()
        finally:
            await connection.close()

    async def _unbooked(self) -> int:
        subject = f"$JS.API.CONSUMER.INFO.{s.TELEMETRY_STREAM}.{CONSUMER}"
        told = from_json((await self._bus.request(subject, b"", timeout=API_WITHIN)).data)
        if "error" in told:
            raise BusError(f"JetStream refuses: {told['error']}")
        return int(told["num_pending"] + told["num_ack_pending"])

    async def _answers(self, process: str) -> bool:
        service = f"bullpen-{process.partition('-')[0]}"
        try:
            await self._bus.request(f"$SRV.PING.{service}.{process}", b"", timeout=PING_WITHIN)
        except BusError:
            return False
        return True

    def _on_heartbeat(self, message: Message) -> None:
        beat = Heartbeat.model_validate_json(message.data)
        self._beats[beat.worker_id] = beat

    def _on_metrics(self, message: Message) -> None:
        with suppress(ValidationError):  # accountants speak here too, in their own words
            told = MeshMetrics.model_validate_json(message.data)
            self._managers[told.source] = told

    def _on_route(self, message: Message) -> None:
        told = RouteDecision.model_validate_json(message.data)
        self._history.managers[told.request_id] = told.manager_id


def _vitals(process: psutil.Process) -> Vitals:
    with process.oneshot():
        return Vitals(
            fds=process.num_fds(),
            sockets=len(process.net_connections(kind="inet")),
            threads=process.num_threads(),
            rss=process.memory_info().rss,
        )
