"""The accountant's process: stream, recorder, feedback, and figures about itself."""

import asyncio
from contextlib import suppress

import structlog

from bus import Bus, BusError, BusSettings, Tasks
from bus.jetstream import ensure_stream
from bus.service import EndpointStats, Service, package_version, serve_info
from bus.tasks import first_of
from contracts import TelemetryMetrics, utc_now
from contracts import subjects as s
from telemetry import stream
from telemetry.config import TelemetryConfig
from telemetry.feedback import serve_feedback
from telemetry.migrate import migrate
from telemetry.patience import Patience
from telemetry.recorder import Recorder
from telemetry.store import DatabaseAway, Store

log = structlog.get_logger(__name__)

CONSUMER = stream.CONSUMER
START_PATIENCE = 30.0
FINISH_WITHIN = 2.0
"""Seconds that the batch at hand and feedback on its way get when we are told to stop."""


class Accountant:
    def __init__(self, bus: Bus, store: Store, config: TelemetryConfig, instance_id: str) -> None:
        self._bus = bus
        self._store = store
        self._config = config
        self._id = instance_id
        self._spec = stream.spec(config)
        self._jetstream = Patience(
            "stream", BusError, config.retry_at_most, "events wait with those who tell; does NATS run with JetStream?"
        )
        self._database = Patience(
            "database",
            DatabaseAway,
            config.retry_at_most,
            "events wait in JetStream; start Postgres, or check DATABASE_URL",
        )
        self._recorder = Recorder(bus, store, self._database, config)
        self._stats = EndpointStats("feedback", s.INFER_FEEDBACK, s.INFER_QUEUE)

    async def run(self, stop: asyncio.Event) -> None:
        """Books until `stop` is set. Raises `SchemaMismatch`, and `BusError` when the bus is lost."""
        tasks = Tasks(self._id)
        feedback = await serve_feedback(self._bus, self._stats)
        keeping = asyncio.create_task(self._keep_books(stop))
        ended = asyncio.Event()
        keeping.add_done_callback(lambda _: ended.set())
        tasks.start(self._report(), "metrics")
        try:
            await first_of(stop, self._bus.lost, ended)
            if not self._bus.lost.is_set():
                await asyncio.wait({keeping, tasks.start(feedback.drain(), "drain")}, timeout=self._time_to_finish)
        finally:
            keeping.cancel()
            await tasks.cancel()
            await asyncio.wait({keeping})
        if self._bus.lost.is_set():
            raise BusError("the connection to NATS is lost for good")
        if not keeping.cancelled():
            keeping.result()

    @property
    def _time_to_finish(self) -> float:
        return 0 if self._database.away or self._jetstream.away else FINISH_WITHIN

    async def _keep_books(self, stop: asyncio.Event) -> None:
        await self._make_stream()  # first: events may then wait in it for the database
        schema = await self._database.until_done(lambda: migrate(self._store))
        await self._serve_discovery(schema)
        log.info("telemetry_ready", instance_id=self._id, schema=schema)
        await self._jetstream.until_done(lambda: self._recorder.run(stop), self._make_stream)

    async def _make_stream(self) -> None:
        await self._jetstream.until_done(lambda: ensure_stream(self._bus, self._spec))

    async def _serve_discovery(self, schema: int) -> None:
        metadata = {"schema": str(schema)}
        await serve_info(
            self._bus,
            Service("bullpen-telemetry", self._id, package_version(), "Books every answer", metadata, (self._stats,)),
        )

    async def _report(self) -> None:
        """Lag and rate on `metrics.mesh`, and room in the stream."""
        loop = asyncio.get_running_loop()
        before, since = 0, loop.time()
        while True:
            await asyncio.sleep(self._config.report_interval)
            waiting: int | None = None
            with suppress(BusError):
                waiting = await stream.make_room(self._bus, self._config.stream_max_bytes)
            now, stored = loop.time(), self._recorder.stored
            metrics = TelemetryMetrics(
                source=self._id,
                created_at=utc_now(),
                stored=stored,
                per_second=(stored - before) / (now - since),
                dead=self._recorder.dead,
                waiting=waiting,
                database_away=self._database.away,
            )
            before, since = stored, now
            with suppress(BusError):
                await self._bus.publish(s.METRICS_MESH, metrics.to_bytes())


async def run(
    settings: BusSettings, database_url: str, config: TelemetryConfig, *, instance_id: str, stop: asyncio.Event
) -> None:
    """Runs one accountant until `stop` is set.

    Raises `BusUnreachable`, `SchemaMismatch`, and `BusError` when the bus was lost.
    """
    bus = await Bus.connect(f"telemetry:{instance_id}", settings, patience=START_PATIENCE, stop=stop)
    store = Store(database_url, config.command_timeout)
    try:
        await Accountant(bus, store, config, instance_id).run(stop)
    finally:
        await store.close()
        await bus.close()
