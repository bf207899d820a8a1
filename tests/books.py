"""Records to be booked, and a running accountant to book them."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Self
from unittest.mock import patch

import psutil
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from bus import Bus, BusError, BusSettings, Message, watchdog
from bus.jetstream import ensure_stream
from bus.role_status import RoleStatus
from contracts import (
    AttemptRecord,
    FeedbackRecord,
    OpenModel,
    Outcome,
    Price,
    ResponseRecord,
    TelemetryMetrics,
    WorkerEventRecord,
    new_id,
)
from contracts import subjects as s
from outbox.outbox import Outbox
from telemetry.config import TelemetryConfig
from telemetry.service import run as run_telemetry
from telemetry.store import Connection, DatabaseAway, Store
from telemetry.stream import CONSUMER, spec
from tests.mesh import SERVER_BACK_WITHIN
from tests.servers import PostgresServer
from tests.support import eventually

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)

SUBJECTS: dict[type[BaseModel], str] = {
    ResponseRecord: s.TELEMETRY_RESPONSE,
    AttemptRecord: s.TELEMETRY_ATTEMPT,
    FeedbackRecord: s.TELEMETRY_FEEDBACK,
    WorkerEventRecord: s.TELEMETRY_WORKER,
}


def response(**changes: Any) -> ResponseRecord:
    values: dict[str, Any] = {
        "request_id": new_id(),
        "task_id": "t",
        "created_at": NOW,
        "status": "ok",
        "model_id": "m",
        "worker_id": "w",
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "tokens_used": 30,
        "cost_usd": Decimal("0.000123456789"),
        "price": Price(input_per_mtok=Decimal("0.1"), output_per_mtok=Decimal("0.2")),
        "duration_ms": 100.0,
        "confidence": 0.9,
        "confidence_source": "logprobs",
        "attempts": 1,
        "prompt": "hi",
        "output": "ho",
    }
    return ResponseRecord(**{**values, **changes})


def attempt(**changes: Any) -> AttemptRecord:
    values: dict[str, Any] = {
        "request_id": new_id(),
        "attempt": 1,
        "task_id": "t",
        "created_at": NOW,
        "worker_id": "w",
        "backend": "b",
        "model_id": "m",
        "outcome": Outcome.OK,
        "duration_ms": 100.0,
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "cost_usd": Decimal("0.5"),
        "confidence": 0.9,
    }
    return AttemptRecord(**{**values, **changes})


def feedback(**changes: Any) -> FeedbackRecord:
    values: dict[str, Any] = {"feedback_id": new_id(), "created_at": NOW, "task_id": "t", "score": 0.5}
    return FeedbackRecord(**{**values, **changes})


def worker_event(**changes: Any) -> WorkerEventRecord:
    values: dict[str, Any] = {
        "event_id": new_id(),
        "created_at": NOW,
        "worker_id": "w",
        "backend": "b",
        "epoch": new_id(),
        "state": "ready",
    }
    return WorkerEventRecord(**{**values, **changes})


class Books:
    """The tables, a way to tell the stream things, and accountants in between once they are started."""

    def __init__(self, nats_url: str, database_url: str) -> None:
        self.settings = BusSettings(servers=(nats_url,))
        self.database_url = database_url
        self.store = Store(database_url, 30)
        self.metrics: list[TelemetryMetrics] = []
        self.bus: Bus
        self.outbox: Outbox
        self.statuses: dict[str, RoleStatus] = {}
        self._running: list[tuple[asyncio.Event, asyncio.Task[None]]] = []
        self._patience = patch.object(watchdog, "ECHO_WAIT", SERVER_BACK_WITHIN)

    async def __aenter__(self) -> Self:
        self.bus = await Bus.connect("test", self.settings, patience=20)
        self.outbox = await Outbox.open("test", self.settings)
        await self.bus.subscribe_inline(s.METRICS_MESH, self._on_metrics)
        self._patience.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.stop()
            await self.outbox.close()
            await self.store.close()
            await self.bus.close()
        finally:
            self._patience.stop()

    def start(self, name: str = "t-1", **config: Any) -> asyncio.Task[None]:
        stop = asyncio.Event()
        quick = TelemetryConfig(
            **{
                "fetch_wait": 0.1,
                "command_timeout": SERVER_BACK_WITHIN,
                "retry_at_most": 0.3,
                "report_interval": 0.1,
                **config,
            }
        )
        status = self.statuses[name] = RoleStatus()
        running = run_telemetry(self.settings, self.database_url, quick, instance_id=name, stop=stop, status=status)
        task = asyncio.create_task(running)
        self._running.append((stop, task))
        return task

    async def ready(self, name: str = "t-1") -> None:
        """That accountant has made its tables and its stream, and books."""

        async def answers() -> bool:
            with suppress(BusError):
                return bool((await self.bus.request(f"$SRV.PING.bullpen-telemetry.{name}", b"", timeout=20)).data)
            return False

        await eventually(answers, timeout=40)

    async def stop(self) -> None:
        while self._running:
            stop, running = self._running.pop()
            stop.set()
            await running

    def forget(self, task: asyncio.Task[None]) -> None:
        """That one ends by itself, as the test says."""
        self._running = [(stop, running) for stop, running in self._running if running is not task]

    def tell(self, *records: OpenModel, subject: str = "") -> None:
        for record in records:
            self.outbox.put(subject or SUBJECTS[type(record)], record, new_id())

    async def make_stream(self) -> None:
        """As an accountant would, so that events can be told before there is one."""
        await ensure_stream(self.bus, spec(TelemetryConfig()))

    async def told(self) -> None:
        """All that was told is in the stream."""
        await eventually(lambda: not self.outbox.pending, timeout=30)

    async def tell_until_all_book(self, *names: str) -> list[ResponseRecord]:
        """Tells of answers until each of these accountants has booked some; returns what it told."""
        told: list[ResponseRecord] = []

        def all_have_booked() -> bool:
            if not self.outbox.pending:
                more = [response() for _ in range(100)]
                self.tell(*more)
                told.extend(more)
            return {metrics.source for metrics in self.metrics if metrics.stored} == {*names}

        await eventually(all_have_booked, timeout=40)
        return told

    async def publish(self, subject: str, *bodies: bytes) -> None:
        """Straight into the stream, which is there already."""
        for body in bodies:
            await self.bus.request(subject, body, timeout=20)

    @property
    def latest(self) -> TelemetryMetrics:
        """What an accountant said last of itself; for `eventually`."""
        assert self.metrics
        return self.metrics[-1]

    async def rows(self, table: str) -> list[dict[str, Any]]:
        async def work(connection: Connection) -> list[dict[str, Any]]:
            return [dict(row) for row in await connection.fetch(f"SELECT * FROM {table}")]

        return await self.store.perform(work)

    async def count(self, table: str = "responses") -> int:
        with suppress(DatabaseAway):
            return len(await self.rows(table))
        return -1

    def booked(self, count: int, table: str = "responses") -> Callable[[], Any]:
        """For `eventually`: so many rows are there, and all that was told is settled."""

        async def check() -> bool:
            with suppress(BusError):  # the server is away, or comes back
                return not self.outbox.pending and await self.waiting() == 0 and await self.count(table) >= count
            return False

        return check

    async def waiting(self) -> int:
        """Events that no accountant has acknowledged yet."""
        subject = f"$JS.API.CONSUMER.INFO.{s.TELEMETRY_STREAM}.{CONSUMER}"
        told = from_json((await self.bus.request(subject, b"", timeout=20)).data)
        assert "error" not in told, told
        return int(told["num_pending"] + told["num_ack_pending"])

    def _on_metrics(self, message: Message) -> None:
        with suppress(ValidationError):  # a Manager's own
            self.metrics.append(TelemetryMetrics.model_validate_json(message.data))


def signal_all(database: PostgresServer, number: signal.Signals) -> None:
    """To every process of it: SIGSTOP freezes it."""
    assert database.process is not None
    postmaster = psutil.Process(database.process.pid)
    for process in (postmaster, *postmaster.children(recursive=True)):
        process.send_signal(number)
