"""The accountant's process: stream, recorder, feedback, and its own figures."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import structlog

from bus import Bus, BusError, BusSettings, Subscription, Tasks
from bus.jetstream import ensure_stream, says_there_is_none
from bus.role_status import Figure, RoleStatus
from bus.service import EndpointStats, Service, package_version, serve_info
from bus.tasks import first_of
from config.watched_file import ConfigFile
from contracts import TelemetryMetrics, utc_now
from contracts import subjects as s
from outbox.privacy_filter import PrivacyFilter
from telemetry import stream
from telemetry.config import TelemetryConfig
from telemetry.grading.grader import Grading
from telemetry.reading.service import BooksService
from telemetry.recording.decisions import Decisions
from telemetry.recording.direct import Direct
from telemetry.recording.feedback import serve_feedback
from telemetry.recording.recorder import Recorder
from telemetry.recording.retry_forever import RetryForever
from telemetry.reload import follow
from telemetry.store import DatabaseAway, Store
from telemetry.upkeep.migrate import migrate
from telemetry.upkeep.retention import Housekeeper

log = structlog.get_logger(__name__)

CONSUMER = stream.CONSUMER
START_PATIENCE = 30.0
FINISH_WITHIN = 2.0
"""Seconds that the current batch and pending feedback get when the accountant stops."""
DELETED_S = 1.0
"""Seconds that a server may need to delete the files of a stream (an estimate)."""


class Accountant:
    def __init__(
        self,
        bus: Bus,
        store: Store,
        housekeeper: Housekeeper,
        grading: Grading,
        config: TelemetryConfig,
        *,
        instance_id: str,
        privacy_filter: PrivacyFilter,
        decisions: Decisions | None,
        books: BooksService,
    ) -> None:
        self._bus = bus
        self._store = store
        self._housekeeper = housekeeper
        self._grading = grading
        self._decisions = decisions
        self._books = books
        self._config = config
        self._id = instance_id
        self._spec = stream.spec(config)
        self._jetstream = RetryForever(
            "stream", BusError, config.retry_at_most, "events wait with those who tell; does NATS run with JetStream?"
        )
        self._database = RetryForever(
            "database",
            DatabaseAway,
            config.retry_at_most,
            "events wait in JetStream; start Postgres, or check DATABASE_URL",
        )
        self._privacy_filter = privacy_filter
        self._recorder = Recorder(bus, store, self._database, config, privacy_filter)
        self._direct = Direct(bus, self._recorder, self._database, config.batch_size)
        self._stream_is_there = asyncio.Event()
        self._was_there = False
        self._waiting: int | None = None
        """Events in the stream that are not booked yet; None: unknown."""
        self._stats = EndpointStats("feedback", s.INFER_FEEDBACK, s.INFER_QUEUE)

    def reconfigure(self, config: TelemetryConfig) -> None:
        """Uses another config, from the next batch or round on."""
        self._config = self._recorder.config = self._housekeeper.config = config
        self._grading.every = config.grades_interval

    def why_not_ready(self) -> str:
        """Why this accountant books nothing now; empty: it books."""
        if not self._bus.is_connected:
            return "the connection to NATS is away"
        if self._database.away:
            return f"the database is away: {self._database.away}"
        if self._jetstream.away and not self._direct.started.is_set():
            return f"the stream of events is away: {self._jetstream.away}"
        return "" if self._direct.open_books.is_set() else "its tables are not made yet"

    def figures(self) -> Iterator[Figure]:
        """The figures for `/metrics`."""
        yield Figure("nats_connected", "1: the connection to NATS is there", self._bus.is_connected)
        yield Figure("database_away", "1: nothing can be booked now", bool(self._database.away))
        yield Figure("events_booked_total", "Events booked", self._recorder.stored, "counter")
        yield Figure("events_dead_total", "Events laid aside in dead_letters", self._recorder.dead, "counter")
        if self._waiting is not None:
            yield Figure("events_waiting", "Messages with events in the stream that are not booked yet", self._waiting)

    async def run(self, stop: asyncio.Event) -> None:
        """Books until `stop` is set. Raises `SchemaMismatch`, and `BusError` when the bus is lost."""
        tasks = Tasks(self._id)
        feedback = await serve_feedback(self._bus, self._stats, self._privacy_filter)
        gathering = await self._decisions.listen() if self._decisions else None
        answering = await self._books.serve()
        keeping = asyncio.create_task(self._keep_books(stop, gathering))
        ended = asyncio.Event()
        keeping.add_done_callback(lambda _: ended.set())
        tasks.start(self._report(), "metrics")
        try:
            await first_of(stop, self._bus.lost, ended)
            if not self._bus.lost.is_set():
                draining = {tasks.start(one.drain(), "drain") for one in (feedback, *answering)}
                await asyncio.wait({keeping, *draining}, timeout=self._time_to_finish)
        finally:
            keeping.cancel()
            await tasks.cancel()
            await asyncio.wait({keeping})
            await self._direct.stop(FINISH_WITHIN)
        if self._bus.lost.is_set():
            raise BusError("the connection to NATS is lost for good")
        if not keeping.cancelled():
            keeping.result()

    @property
    def _time_to_finish(self) -> float:
        return 0 if self._database.away or self._jetstream.away else FINISH_WITHIN

    async def _keep_books(self, stop: asyncio.Event, gathering: Subscription | None) -> None:
        making = asyncio.create_task(self._make_stream())  # at once: events may then wait in it for the database
        housekeeping = Tasks(f"{self._id}:housekeeping")
        try:
            schema = await self._database.until_done(lambda: migrate(self._store))
            housekeeping.start(self._housekeeper.run(), "rounds")
            housekeeping.start(self._grading.run(), "grades")
            if self._decisions and gathering:
                housekeeping.start(self._decisions.run(gathering), "decisions")
            self._direct.open_books.set()
            await first_of(self._stream_is_there, self._direct.started)
            await self._serve_discovery(schema)
            log.info("telemetry_ready", instance_id=self._id, schema=schema)
            await making
            await self._jetstream.until_done(lambda: self._recorder.run(stop), self._make_stream)
        finally:
            making.cancel()
            await housekeeping.cancel()

    async def _make_stream(self) -> None:
        """Returns when there is a stream. Without JetStream, events are booked directly until then."""
        self._stream_is_there.clear()
        await self._jetstream.until_done(self._try_to_make_stream)
        self._stream_is_there.set()
        await self._direct.stop(FINISH_WITHIN)

    async def _try_to_make_stream(self) -> None:
        try:
            await ensure_stream(self._bus, self._spec, deleted_s=DELETED_S if self._was_there else 0.0)
            self._was_there = True
        except BusError as error:
            if says_there_is_none(error):
                await self._direct.start()
            raise

    async def _serve_discovery(self, schema: int) -> None:
        metadata, stats = {"schema": str(schema)}, (self._stats, *self._books.stats)
        await serve_info(
            self._bus,
            Service("bullpen-telemetry", self._id, package_version(), "Books every answer", metadata, stats),
        )

    async def _report(self) -> None:
        """Publishes lag and rate on `metrics.mesh`, and makes room in the stream."""
        loop = asyncio.get_running_loop()
        before, since = 0, loop.time()
        while True:
            await asyncio.sleep(self._config.report_interval)
            self._waiting = None
            with suppress(BusError):
                self._waiting = await stream.make_room(self._bus, self._config.stream_max_bytes)
            now, stored = loop.time(), self._recorder.stored
            metrics = TelemetryMetrics(
                source=self._id,
                created_at=utc_now(),
                stored=stored,
                per_second=(stored - before) / (now - since),
                dead=self._recorder.dead,
                waiting=self._waiting,
                database_away=self._database.away,
            )
            before, since = stored, now
            with suppress(BusError):
                await self._bus.publish(s.METRICS_MESH, metrics.to_bytes())


async def run(
    settings: BusSettings,
    database_url: str,
    config: TelemetryConfig,
    *,
    instance_id: str,
    stop: asyncio.Event,
    content_key: bytes = b"",
    config_file: ConfigFile[TelemetryConfig] | None = None,
    status: RoleStatus | None = None,
) -> None:
    """Runs one accountant until `stop` is set. It follows changes of `config_file` meanwhile.

    `status` is filled in for the status page of this machine.

    Raises `BusUnreachable`, `ConfigError`, `SchemaMismatch`, and `BusError` when the connection was lost for good.
    """
    privacy_filter = PrivacyFilter(config.content, content_key)
    bus = await Bus.connect(f"telemetry:{instance_id}", settings, patience=START_PATIENCE, stop=stop)
    following = Tasks(f"{instance_id}:config")
    store, apart, read = (Store(database_url, config.command_timeout) for _ in range(3))
    try:
        housekeeper, grading = Housekeeper(apart, config), Grading(bus, apart, config.grades_interval)
        accountant = Accountant(
            bus,
            store,
            housekeeper,
            grading,
            config,
            instance_id=instance_id,
            privacy_filter=privacy_filter,
            decisions=Decisions(bus, apart) if config.decisions else None,
            books=BooksService(bus, read),
        )
        if config_file is not None:
            following.start(follow(config_file, config, accountant.reconfigure), "config")
        if status is not None:
            status.why_not, status.figures = accountant.why_not_ready, accountant.figures
        await accountant.run(stop)
    finally:
        await following.cancel()
        await apart.close()
        await read.close()
        await store.close()
        await bus.close()
