"""JetStream, as little of it as the books need: a stream, and a durable consumer to pull from.

What JetStream acknowledged it keeps across the death of any process here. How well it survives a
power cut is the server's `sync_interval`, see `nats/`.
"""

from collections.abc import Awaitable
from dataclasses import dataclass

import structlog
from nats import errors as nats_errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError

from bus.connection import Bus
from bus.errors import BusError

log = structlog.get_logger(__name__)

API_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """A stream: what it captures, and for how long. Seconds and bytes."""

    name: str
    subjects: tuple[str, ...]
    max_age_s: float = 7 * 86_400
    max_bytes: int = 8 << 30
    duplicate_window_s: float = 600
    replicas: int = 1

    def config(self) -> StreamConfig:
        return StreamConfig(
            name=self.name,
            subjects=list(self.subjects),
            storage=StorageType.FILE,
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.NEW,
            max_age=self.max_age_s,
            max_bytes=self.max_bytes,
            duplicate_window=self.duplicate_window_s,
            num_replicas=self.replicas,
        )


class StoredMessage:
    """A message from a stream, to be acknowledged one way or the other. Each way raises `BusError`."""

    def __init__(self, msg: Msg) -> None:
        self._msg = msg
        self.subject = msg.subject
        self.data = msg.data
        self.headers = msg.headers or {}

    @property
    def stream_seq(self) -> int:
        return self._msg.metadata.sequence.stream

    @property
    def deliveries(self) -> int:
        return self._msg.metadata.num_delivered or 1

    async def ack(self) -> None:
        """Done: never deliver it again."""
        await _settled(self._msg.ack())

    async def nak(self, delay_s: float = 0.0) -> None:
        """Not now: deliver it again after `delay_s`."""
        await _settled(self._msg.nak(delay=delay_s))

    async def in_progress(self) -> None:
        """Still at it: do not deliver it to somebody else yet."""
        await _settled(self._msg.in_progress())

    async def term(self) -> None:
        """Never deliver it again, though it was not done."""
        await _settled(self._msg.term())


async def _settled(telling: Awaitable[None]) -> None:
    try:
        await telling
    except (nats_errors.Error, OSError) as error:
        raise BusError(f"cannot acknowledge: {error!r}") from error


async def ensure_stream(bus: Bus, spec: StreamSpec) -> None:
    """Makes the stream, or brings it to `spec`. Raises `BusError` when JetStream is not there."""
    js = bus.nats.jetstream(timeout=API_TIMEOUT)
    try:
        try:
            await js.update_stream(spec.config())
        except NotFoundError:
            await js.add_stream(spec.config())
    except (nats_errors.Error, OSError, TimeoutError) as error:
        raise BusError(f"cannot make stream {spec.name}: {_reason(error)}") from error


class PullConsumer:
    """A durable consumer: what was not acknowledged is delivered again, also after a restart."""

    def __init__(self, bus: Bus, stream: str, subscription: JetStreamContext.PullSubscription) -> None:
        self._bus = bus
        self._stream = stream
        self._subscription = subscription

    @classmethod
    async def open(
        cls, bus: Bus, *, stream: str, durable: str, ack_wait_s: float = 60, max_ack_pending: int = 5000
    ) -> "PullConsumer":
        """Joins (or makes) the durable consumer. Raises `BusError`."""
        js = bus.nats.jetstream(timeout=API_TIMEOUT)
        config = ConsumerConfig(
            durable_name=durable,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ack_wait_s,
            max_deliver=-1,
            max_ack_pending=max_ack_pending,
        )
        try:
            await js.add_consumer(stream, config)
            subscription = await js.pull_subscribe_bind(durable=durable, stream=stream)
        except (nats_errors.Error, OSError, TimeoutError) as error:
            raise BusError(f"cannot consume stream {stream}: {_reason(error)}") from error
        return cls(bus, stream, subscription)

    async def fetch(self, batch: int, *, timeout: float) -> list[StoredMessage]:
        """Up to `batch` messages; an empty list when none came in `timeout` seconds. Raises `BusError`."""
        try:
            return [StoredMessage(msg) for msg in await self._subscription.fetch(batch, timeout=timeout)]
        except (TimeoutError, nats_errors.TimeoutError):
            return []
        except (nats_errors.Error, OSError) as error:
            raise BusError(f"cannot fetch from {self._stream}: {_reason(error)}") from error

    async def pending(self) -> int:
        """How many messages wait in the stream for this consumer. Raises `BusError`."""
        try:
            info = await self._subscription.consumer_info()
        except (nats_errors.Error, OSError, TimeoutError) as error:
            raise BusError(f"cannot ask about {self._stream}: {_reason(error)}") from error
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    async def close(self) -> None:
        """Leaves; the durable consumer stays for the next one."""
        try:
            await self._subscription.unsubscribe()
        except nats_errors.Error as error:
            log.debug("unsubscribe_failed", error=repr(error))


async def jetstream_is_there(bus: Bus) -> bool:
    """Whether the server offers JetStream to us."""
    try:
        await bus.nats.jetstream(timeout=API_TIMEOUT).account_info()
    except (nats_errors.Error, OSError, TimeoutError):
        return False
    return True


def _reason(error: Exception) -> str:
    if isinstance(error, NotFoundError):
        return "it does not exist yet"
    if isinstance(error, APIError):
        return error.description or repr(error)
    return "JetStream does not answer" if isinstance(error, TimeoutError) else repr(error)
