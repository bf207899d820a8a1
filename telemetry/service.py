"""The accountant's process: stream, recorder, feedback, and figures about itself."""

import asyncio
from contextlib import suppress

import structlog

from bus import Bus, BusError, BusSettings, Tasks
from bus.jetstream import PullConsumer, StreamSpec, ensure_stream
from bus.outbox import Outbox
from bus.service import EndpointStats, Service, package_version, serve_info
from bus.tasks import first_of
from contracts import BullpenError, TelemetryMetrics, utc_now
from contracts import subjects as s
from telemetry.config import TelemetryConfig
from telemetry.feedback import serve_feedback
from telemetry.migrate import migrate
from telemetry.recorder import Recorder
from telemetry.store import DatabaseAway, Store

log = structlog.get_logger(__name__)

CONSUMER = "books"
START_PATIENCE = 30.0
RETRY = 1.0


class Accountant:
    def __init__(self, bus: Bus, outbox: Outbox, store: Store, config: TelemetryConfig, instance_id: str) -> None:
        self._bus = bus
        self._outbox = outbox
        self._store = store
        self._config = config
        self._id = instance_id
        self._recorder: Recorder | None = None
        self._schema = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Books until `stop` is set or the bus is lost. Raises `SchemaMismatch`."""
        tasks = Tasks(self._id)
        await serve_feedback(self._bus, self._outbox)
        keeping = tasks.start(self._keep_books(), "books")
        tasks.start(self._tell(), "metrics")
        ended = asyncio.Event()
        keeping.add_done_callback(lambda _: ended.set())
        await first_of(stop, self._bus.lost, ended)
        if keeping.done():
            keeping.result()
        await tasks.cancel()

    async def _keep_books(self) -> None:
        spec = StreamSpec(
            s.TELEMETRY_STREAM,
            (s.TELEMETRY_ANY,),
            max_age_s=self._config.stream_max_age,
            max_bytes=self._config.stream_max_bytes,
            duplicate_window_s=self._config.duplicate_window,
        )
        while True:
            try:
                await ensure_stream(self._bus, spec)  # first: events may then wait in it for the database
                await self._prepare_database()
                consumer = await PullConsumer.open(self._bus, stream=s.TELEMETRY_STREAM, durable=CONSUMER)
                self._recorder = Recorder(consumer, self._store, self._config)
                await self._serve_discovery()
                log.info("telemetry_ready", instance_id=self._id, schema=self._schema)
                await self._recorder.run()
            except BusError as error:
                log.warning("stream_away", reason=str(error))
                await asyncio.sleep(RETRY)

    async def _prepare_database(self) -> None:
        told = False
        while not self._schema:
            try:
                self._schema = await migrate(self._store)
            except DatabaseAway as error:
                if not told:
                    log.warning("database_away", reason=str(error), cure="start Postgres, or check DATABASE_URL")
                told = True
                await asyncio.sleep(RETRY)

    async def _serve_discovery(self) -> None:
        stats = EndpointStats("feedback", s.INFER_FEEDBACK, s.INFER_QUEUE)
        metadata = {"schema": str(self._schema)}
        service = Service("bullpen-telemetry", self._id, package_version(), "Books every answer", metadata, (stats,))
        await serve_info(self._bus, service)

    async def _tell(self) -> None:
        """Lag and rate on `metrics.mesh`."""
        before = 0
        while True:
            await asyncio.sleep(self._config.report_interval)
            recorder = self._recorder
            if recorder is None:
                continue
            with suppress(BusError, BullpenError):
                metrics = TelemetryMetrics(
                    source=self._id,
                    created_at=utc_now(),
                    stored=recorder.stored,
                    per_second=(recorder.stored - before) / self._config.report_interval,
                    dead=recorder.dead,
                    database_away=recorder.away,
                )
                await self._bus.publish(s.METRICS_MESH, metrics.to_bytes())
            before = recorder.stored


async def run(
    settings: BusSettings, database_url: str, config: TelemetryConfig, *, instance_id: str, stop: asyncio.Event
) -> None:
    """Runs one accountant until `stop` is set.

    Raises `BusUnreachable`, `SchemaMismatch`, and `BusError` when the bus was lost.
    """
    bus = await Bus.connect(f"telemetry:{instance_id}", settings, patience=START_PATIENCE)
    outbox = await Outbox.open(instance_id, settings, patience=START_PATIENCE)
    store = Store(database_url, config.command_timeout)
    try:
        await Accountant(bus, outbox, store, config, instance_id).run(stop)
        if bus.lost.is_set():
            raise BusError("the connection to NATS is lost for good")
    finally:
        await outbox.close()
        await store.close()
        await bus.close()
