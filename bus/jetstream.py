"""The part of JetStream that telemetry and jobs need: a stream, and a durable consumer that pulls from it.

A message that JetStream acknowledged survives the death of any process of the mesh. The server's `sync_interval`
decides whether it survives a power cut; see `nats/`.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import structlog
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from pydantic_core import from_json, to_json

from bus.connection import Bus
from bus.errors import BusError, NoResponders, RequestTimeout
from bus.pull import Puller, StoredMessage
from contracts import JsonObject
from contracts.kept import ABOUT, READERS

log = structlog.get_logger(__name__)

API = "$JS.API"
API_TIMEOUT = 5.0
NO_SUCH_STREAM = 10059
NO_ROOM = 10047
"""Error code: the stream needs more space than the server may use: its limit, or three quarters of the disk space that
was free when it started.
"""
SMALLEST = 64 << 20
NOT_ENABLED = frozenset({10039, 10076})
"""Error codes: JetStream is off for this account, or for the whole server."""
NO_PLACE = frozenset({10023, 10026, 10028, NO_ROOM})
"""Error codes: JetStream lacks the space, the memory or the right for another stream, however small."""
LIMITS = {"max_age": 0, "max_bytes": -1, "max_msgs": -1, "max_msgs_per_subject": -1}
"""Limits of a stream, each with the value that means "no limit"."""


class JetStreamRefuses(BusError):
    """JetStream refused a call; `code` is its own number for the reason."""

    def __init__(self, verb: str, code: int, description: str) -> None:
        super().__init__(f"JetStream refuses {verb}: {description}")
        self.code = code


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """A stream: what it stores, and for how long. Times in seconds, sizes in bytes."""

    name: str
    subjects: tuple[str, ...]
    max_age_s: float = 7 * 86_400
    max_bytes: int = 8 << 30
    duplicate_window_s: float = 600
    replicas: int = 1

    def config(self) -> StreamConfig:
        return StreamConfig(
            name=self.name,
            description=ABOUT.get(self.name),
            subjects=list(self.subjects),
            storage=StorageType.FILE,
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.NEW,
            max_age=self.max_age_s,
            max_bytes=self.max_bytes,
            duplicate_window=self.duplicate_window_s,
            num_replicas=self.replicas,
        )


async def api(bus: Bus, verb: str, body: JsonObject | None = None, *, timeout: float = API_TIMEOUT) -> dict[str, Any]:
    """JetStream's answer to a call of its API. Raises `JetStreamRefuses`, `BusError`."""
    reply = await bus.request(f"{API}.{verb}", to_json(body) if body else b"", timeout=timeout)
    try:
        answer: dict[str, Any] = from_json(reply.data)
    except ValueError as error:
        raise BusError(f"not an answer of JetStream: {reply.data[:80]!r}") from error
    if problem := answer.get("error"):
        raise JetStreamRefuses(verb, problem.get("err_code", 0), problem.get("description", ""))
    return answer


async def ensure_stream(bus: Bus, spec: StreamSpec, *, deleted_s: float = 0.0) -> None:
    """Creates the stream, or raises the limits of an existing one to those of `spec`. Raises `BusError`.

    `deleted_s`: seconds to wait before a stream is created that was just deleted. A server (2.15.1) that is still
    deleting the old stream's files deletes the new one's too, and then stores nothing until it is restarted.

    Changes an existing stream so that it also has these subjects and refuses new messages when it is full, and gives it
    a description if it has none. Replicas, age, size and the duplicate window are raised to `spec` and `NATS_REPLICAS`,
    never lowered; other settings of an operator (placement, compression, …) stay. If the server has too little room for
    the size, a quarter of it is tried, and so on.
    """
    max_bytes = spec.max_bytes
    while True:
        try:
            told = {"max_bytes": max_bytes, "num_replicas": max(spec.replicas, bus.settings.replicas)}
            await _ensure(bus, spec, spec.config().as_dict() | told, deleted_s)
        except JetStreamRefuses as refusal:
            if refusal.code != NO_ROOM or max_bytes // 4 < SMALLEST:
                raise
            log.warning("no_room_for_stream", stream=spec.name, wanted=max_bytes, trying=max_bytes // 4)
            max_bytes //= 4
        else:
            return


async def _ensure(bus: Bus, spec: StreamSpec, wanted: JsonObject, deleted_s: float) -> None:
    try:
        there = (await api(bus, f"STREAM.INFO.{spec.name}"))["config"]
        if (config := _raised(there, wanted)) != there:
            await api(bus, f"STREAM.UPDATE.{spec.name}", config)
    except JetStreamRefuses as refusal:
        if refusal.code != NO_SUCH_STREAM:
            raise
        await asyncio.sleep(deleted_s)
        await api(bus, f"STREAM.CREATE.{spec.name}", {key: value for key, value in wanted.items() if value is not None})


def _raised(there: JsonObject, wanted: JsonObject) -> JsonObject:
    """The existing stream's configuration with the wanted subjects, and with limits that are not lower than wanted."""
    config = {
        **there,
        "subjects": [*there.get("subjects", []), *(s for s in wanted["subjects"] if s not in there["subjects"])],
        "discard": wanted["discard"],
        "num_replicas": max(there["num_replicas"], wanted["num_replicas"]),
        "duplicate_window": max(there.get("duplicate_window", 0), wanted["duplicate_window"]),
    }
    if about := there.get("description") or wanted.get("description"):
        config["description"] = about
    for limit, none in LIMITS.items():
        mine, theirs = wanted.get(limit) or none, there.get(limit) or none
        config[limit] = none if none in (mine, theirs) else max(mine, theirs)
    return config


class PullConsumer:
    """A durable consumer: messages that are not acknowledged are delivered again, even after a restart."""

    def __init__(self, bus: Bus, stream: str, durable: str) -> None:
        self._bus = bus
        self._about = f"CONSUMER.INFO.{stream}.{durable}"
        self._puller = Puller(bus, stream, durable)

    @classmethod
    async def open(
        cls, bus: Bus, *, stream: str, durable: str, ack_wait_s: float = 60, max_ack_pending: int = 5000
    ) -> "PullConsumer":
        """Opens the durable consumer, creating it if needed. Raises `BusError`."""
        config = ConsumerConfig(
            durable_name=durable,
            description=READERS.get((stream, durable)),
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ack_wait_s,
            max_deliver=-1,
            max_ack_pending=max_ack_pending,
        ).as_dict()
        request = {"stream_name": stream, "config": {key: value for key, value in config.items() if value is not None}}
        await api(bus, f"CONSUMER.DURABLE.CREATE.{stream}.{durable}", request)
        consumer = cls(bus, stream, durable)
        await consumer._puller.open()
        return consumer

    async def fetch(self, batch: int, *, timeout: float, max_bytes: int = 0) -> list[StoredMessage]:
        """Up to `batch` messages; an empty list when none came in `timeout` seconds. Raises `BusError`.

        The messages have about `max_bytes` together; a single larger message comes alone.
        """
        return await self._puller.fetch(batch, timeout=timeout, max_bytes=max_bytes)

    async def pending(self) -> int:
        """How many messages the consumer has not acknowledged, delivered or not. Raises `BusError`."""
        info = await api(self._bus, self._about)
        return int(info["num_pending"] + info["num_ack_pending"])

    async def close(self) -> None:
        """Stops pulling; the durable consumer remains."""
        await self._puller.close()


async def jetstream_is_there(bus: Bus) -> bool:
    """Whether the server offers JetStream to this user."""
    try:
        await api(bus, "INFO")
    except BusError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a stream refused a message."""

    reason: str
    stuck: bool
    """JetStream gives no reason, or says that it is off. That happens after a full disk, until the server is
    restarted.
    """


async def write_refused(bus: Bus, subject: str, *, timeout: float = API_TIMEOUT) -> Refusal | None:
    """Tries to write a small message to the stream of this subject. None: the stream took it, or there is no such
    stream.

    Raises `BusError` when the server cannot be asked.
    """
    try:
        answer = from_json((await bus.request(subject, b"{}", timeout=timeout)).data)
        refused: JsonObject | None = answer.get("error")
    except RequestTimeout as error:
        return Refusal(str(error), stuck=bus.is_connected)
    except NoResponders:
        there = await jetstream_is_there(bus)
        return None if there else Refusal("JetStream is off", stuck=True)
    except (ValueError, AttributeError) as error:
        raise BusError(f"not an answer of a stream on {subject}") from error
    return Refusal(str(refused.get("description", refused)), stuck=False) if refused else None


def says_there_is_none(error: BusError) -> bool:
    """Whether a call failed because this user has no JetStream, not because JetStream is away for the moment."""
    none = NOT_ENABLED | NO_PLACE
    return isinstance(error, NoResponders) or (isinstance(error, JetStreamRefuses) and error.code in none)
